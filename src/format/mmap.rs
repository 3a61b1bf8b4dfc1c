//! Mapping files into memory.

#![expect(unsafe_code, reason = "a mapped file is memory that others could change")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use memmap2::Mmap;

use crate::base::{crash, file};

/// A mapped file. Where it is cut short while it is read, the signal that ends this process names it.
pub struct MappedFile {
    map: Mmap,
    file: File,
    path: PathBuf,
    _note: crash::MappedFile,
}

impl MappedFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives back the memory of what was read, which the system reads again when it is touched.
    pub fn leave(&self) {
        // SAFETY: the map is of a file and read-only, so that the same bytes are read afterwards.
        #[cfg(target_os = "linux")]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// Fails when the file has become shorter than its map: reading what is missing would end this process.
    pub fn check(&self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len >= self.map.len() as u64 {
            return Ok(());
        }
        let (path, before) = (self.path.display(), self.map.len());
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{path} was truncated from {before} to {len} bytes while the model was in use"),
        ))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps a whole regular file of at most `bytes_max` bytes, read-only.
pub(super) fn map(path: &Path, bytes_max: u64) -> Result<Arc<MappedFile>> {
    let file = file::open(path)?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    file::ensure_size(path, bytes, bytes_max)?;
    // SAFETY: the map is read-only and every reader treats its bytes as untrusted data of any value.
    // Reading past the end of a file that another program truncates meanwhile ends this process with SIGBUS, as every
    // program that maps its model: so files are checked before each pass, see `MappedFile::check`. Checkpoints are
    // replaced by renaming, not by writing in place.
    let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))?;
    let note = crash::MappedFile::note(path, &map);
    Ok(Arc::new(MappedFile { map, file, path: path.to_owned(), _note: note }))
}
