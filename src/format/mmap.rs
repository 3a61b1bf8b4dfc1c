//! Mapping files into memory.

#![expect(unsafe_code, reason = "a mapped file is memory that others could change")]

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use memmap2::Mmap;

use crate::base::crash::MappedFile;
use crate::base::file;

/// A mapped file. Where it is cut short meanwhile, the signal that ends this process names it.
pub(super) struct Mapped {
    map: Mmap,
    _note: MappedFile,
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps a whole regular file of at most `bytes_max` bytes, read-only.
pub(super) fn map(path: &Path, bytes_max: u64) -> Result<Arc<Mapped>> {
    let file = file::open(path)?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    file::ensure_size(path, bytes, bytes_max)?;
    // SAFETY: the map is read-only and every reader treats its bytes as untrusted data of any value.
    // A file that another program truncates meanwhile ends this process with SIGBUS, as for every
    // program that maps its model; checkpoints are replaced by renaming, not by writing in place.
    let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))?;
    let note = MappedFile::note(path, &map);
    Ok(Arc::new(Mapped { map, _note: note }))
}
