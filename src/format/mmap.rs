//! Mapping files into memory.

#![expect(unsafe_code, reason = "a mapped file is memory that others could change")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use memmap2::Mmap;

/// Maps a whole file, read-only.
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: the map is read-only and every reader treats its bytes as untrusted data of any value.
    // A file that another program truncates meanwhile ends this process with SIGBUS, as for every
    // program that maps its model; checkpoints are replaced by renaming, not by writing in place.
    let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot map {}", path.display()))?;
    Ok(Arc::new(map))
}
