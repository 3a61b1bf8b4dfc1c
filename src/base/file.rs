//! Reading untrusted files: a pipe would block, a device has no end, and a file may be of any size.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Opens a regular file, or a link to one. Fails, and never waits, for anything else.
pub fn open(path: &Path) -> Result<File> {
    let describe = || format!("cannot open {}", path.display());
    ensure_regular(path, &fs::metadata(path).with_context(describe)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // Another one may have taken its place since: opening a pipe then does not wait for who writes to it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path).with_context(describe)?;
    ensure_regular(path, &file.metadata().with_context(describe)?)?;
    Ok(file)
}

/// Reads a regular file of at most `bytes_max` bytes.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(bytes_max + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    ensure_size(path, bytes.len() as u64, bytes_max)?;
    Ok(bytes)
}

/// Reads a regular file of at most `bytes_max` bytes of UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String> {
    String::from_utf8(read(path, bytes_max)?).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Fails when a file is larger than `bytes_max`.
pub fn ensure_size(path: &Path, bytes: u64, bytes_max: u64) -> Result<()> {
    ensure!(
        bytes <= bytes_max,
        "{} exceeds {bytes_max} bytes, the most that such a file may have",
        path.display()
    );
    Ok(())
}

fn ensure_regular(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"abc");
        let error = read(&path, 2).unwrap_err().to_string();
        assert!(error.contains("exceeds 2 bytes"), "{error}");
        fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path, 3).unwrap_err().to_string().contains("not UTF-8"));
        assert!(format!("{:#}", open(dir.path()).unwrap_err()).contains("not a regular file"));
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let [pipe, device, link, file] = ["pipe", "device", "link", "file"].map(|name| dir.path().join(name));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        symlink("/dev/zero", &device).unwrap();
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &device, &link] {
            let error = format!("{:#}", read(path, 10).unwrap_err());
            assert!(error.contains("not a regular file"), "{error}");
        }
        fs::write(&file, "abc").unwrap();
        fs::remove_file(&link).unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_text(&link, 10).unwrap(), "abc");
    }
}
