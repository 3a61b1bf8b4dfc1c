//! Where the daemon of a user is found.
//!
//! Everything lies in one folder that only the user can enter: the socket, the lock that makes the daemon the only
//! one, and the note that the user has stopped it.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use interprocess::local_socket::{Name, prelude::*};

use crate::config::RUNTIME_DIR_VARIABLE;

/// Longest path of a socket on every system.
#[cfg(unix)]
const SOCKET_PATH_MAX: usize = 103;

/// The folder of the daemon.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

/// Held by the daemon as long as it lives.
pub struct Lock {
    _file: File,
}

impl Place {
    /// The folder of this user, made if it is not there: `FIMD_RUNTIME_DIR`, or one below `XDG_RUNTIME_DIR` or the
    /// folder for temporary files. Fails when others could enter it.
    pub fn find() -> Result<Self> {
        let dir = match env::var_os(RUNTIME_DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => usual(),
        };
        make_private(&dir)?;
        let place = Self { dir };
        #[cfg(unix)]
        if place.socket_path().as_os_str().len() > SOCKET_PATH_MAX {
            bail!(
                "{} is too long for the path of a socket; set {RUNTIME_DIR_VARIABLE} to a shorter one",
                place.socket_path().display()
            );
        }
        Ok(place)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the log is written.
    pub fn log_dir(&self) -> PathBuf {
        let usual = dirs::state_dir().or_else(dirs::cache_dir).map(|dir| dir.join("fimd"));
        match env::var_os(RUNTIME_DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => self.dir.clone(),
            _ => usual.unwrap_or_else(|| self.dir.clone()),
        }
    }

    /// Where the socket is, for people.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.join("daemon.sock")
    }

    /// The address of the socket.
    pub fn socket(&self) -> Result<Name<'static>> {
        #[cfg(unix)]
        let name = self.socket_path().to_fs_name::<interprocess::local_socket::GenericFilePath>();
        #[cfg(not(unix))]
        let name = format!("fimd-{}", self.dir.display().to_string().replace(['\\', '/', ':'], "-"))
            .to_ns_name::<interprocess::local_socket::GenericNamespaced>();
        name.with_context(|| format!("{} cannot be the address of a socket", self.socket_path().display()))
    }

    /// Makes this process the daemon; `None` when another one is. The system lets go of the lock when its holder
    /// ends, however that happens.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let path = self.dir.join("daemon.lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Whether the user has stopped the daemon, and not started it since.
    pub fn is_stopped(&self) -> bool {
        self.note().exists()
    }

    /// Notes that the user has stopped the daemon.
    pub fn note_stop(&self) -> io::Result<()> {
        fs::write(self.note(), "")
    }

    /// Notes that it is wanted again.
    pub fn forget_stop(&self) {
        let _ = fs::remove_file(self.note());
    }

    fn note(&self) -> PathBuf {
        self.dir.join("stopped")
    }
}

#[cfg(unix)]
fn usual() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
    match runtime {
        Some(dir) => Path::new(&dir).join("fimd"),
        None => env::temp_dir().join(format!("fimd-{}", rustix::process::geteuid().as_raw())),
    }
}

#[cfg(not(unix))]
fn usual() -> PathBuf {
    dirs::data_local_dir().unwrap_or_else(env::temp_dir).join("fimd")
}

/// Makes a folder that only this user can enter, or checks that it is one.
fn make_private(dir: &Path) -> Result<()> {
    let cannot = || format!("cannot make the folder {}", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(cannot)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.with_context(cannot),
    }
    let metadata = fs::symlink_metadata(dir).with_context(cannot)?;
    if !metadata.is_dir() {
        bail!("{} is not a folder; remove it, or set {RUNTIME_DIR_VARIABLE} to another one", dir.display());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
        if owner != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            bail!(
                "{} belongs to user {owner} and has mode {mode:o}; it must be yours and 700 (or set {RUNTIME_DIR_VARIABLE})",
                dir.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().into() };
        let lock = place.lock().unwrap();
        assert!(lock.is_some() && place.lock().unwrap().is_none());
        drop(lock);
        assert!(place.lock().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn folders_of_others_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        make_private(&dir.path().join("new/fimd")).unwrap();
        make_private(&dir.path().join("new/fimd")).unwrap();
        for (name, mode) in [("wide", 0o755), ("group", 0o710)] {
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            let error = make_private(&dir).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:o}")), "{error}");
        }
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        for name in ["file", "link"] {
            assert!(make_private(&dir.path().join(name)).unwrap_err().to_string().contains("not a folder"));
        }
    }
}
