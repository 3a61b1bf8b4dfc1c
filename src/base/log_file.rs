//! The files of a log: private, bounded, and never a reason to fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Name of the newest file.
pub const NAME: &str = "fimd.log";
/// Names of the older ones, the newest first.
const OLDER: [&str; 2] = ["fimd.1.log", "fimd.2.log"];
/// Size at which a file makes place for a new one.
const BYTES_MAX: u64 = 4 << 20;

/// Writes to [`NAME`] in a folder. A line that cannot be written is lost.
pub(super) struct LogFile {
    dir: PathBuf,
    bytes_max: u64,
    current: Mutex<Option<(File, u64)>>,
}

impl LogFile {
    /// Fails when nothing can be written there now.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let describe = || format!("cannot write logs in {}", dir.display());
        make_private(dir).with_context(describe)?;
        let this = Self { dir: dir.to_owned(), bytes_max: BYTES_MAX, current: Mutex::default() };
        let file = this.append().with_context(describe)?;
        *this.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(this)
    }

    fn append(&self) -> io::Result<(File, u64)> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.dir.join(NAME))?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    }

    fn try_write(&self, line: &[u8]) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(_, bytes)| bytes + line.len() as u64 > self.bytes_max) {
            *current = None;
            self.rotate()?;
            *current = Some(self.append()?);
        }
        if let Some((file, bytes)) = &mut *current {
            file.write_all(line)?;
            *bytes += line.len() as u64;
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let path = |name: &str| self.dir.join(name);
        if fs::metadata(path(NAME)).is_ok_and(|file| file.len() == 0) {
            return Ok(());
        }
        let _ = fs::rename(path(OLDER[0]), path(OLDER[1]));
        fs::rename(path(NAME), path(OLDER[0]))
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.try_write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a folder that only this user can enter, also of one that is there.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    #[cfg(unix)]
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("log");
        let log = LogFile { bytes_max: 10, ..LogFile::open(&dir).unwrap() };
        for line in ["1 line\n", "2 line\n", "3 line\n", "4 line\n"] {
            (&log).write_all(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!([NAME, OLDER[0], OLDER[1]].map(read), ["4 line\n", "3 line\n", "2 line\n"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&dir), mode(&dir.join(NAME))), (0o700, 0o600));
        }
        let again = LogFile::open(&dir).unwrap();
        (&again).write_all(b"5 line\n").unwrap();
        assert_eq!(read(NAME), "4 line\n5 line\n");
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_written_is_lost_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::open(dir.path()).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full");
        let Ok(full) = full else { return eprintln!("skipped: this system has no /dev/full") };
        *log.current.lock().unwrap() = Some((full, 0));
        (&log).write_all(b"lost\n").unwrap();
        *log.current.lock().unwrap() = None;
        (&log).write_all(b"kept\n").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(NAME)).unwrap(), "kept\n");
    }
}
