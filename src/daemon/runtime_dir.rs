//! The runtime folder of a user's daemon, which only the user can enter: the socket, the lock that makes the daemon
//! the only one, and the marker that the user has stopped it.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use interprocess::local_socket::{Name, prelude::*};

use crate::base::log_file;
use crate::config::RUNTIME_DIR_VARIABLE;

/// Longest path of a socket that every system accepts, in bytes.
#[cfg(unix)]
const SOCKET_PATH_MAX: usize = 103;

#[derive(Clone, Debug)]
pub struct RuntimeDir {
    dir: PathBuf,
}

/// Held for the lifetime of the daemon.
pub struct Lock {
    _file: File,
}

impl RuntimeDir {
    /// The folder of this user, created if missing: `FIMD_RUNTIME_DIR`, or one below `XDG_RUNTIME_DIR` or the
    /// folder for temporary files. Fails when other users could enter it.
    pub fn find() -> Result<Self> {
        let dir = match env::var_os(RUNTIME_DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => {
                std::path::absolute(dir).with_context(|| format!("{RUNTIME_DIR_VARIABLE} is no path"))?
            }
            _ => default_dir(),
        };
        make_private(&dir)?;
        let this = Self { dir };
        #[cfg(unix)]
        if this.socket_path().as_os_str().len() > SOCKET_PATH_MAX {
            bail!(
                "{} exceeds the longest path of a socket; set {RUNTIME_DIR_VARIABLE} to a shorter one",
                this.socket_path().display()
            );
        }
        Ok(this)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Folder of the log.
    pub fn log_dir(&self) -> PathBuf {
        let state_dir = dirs::state_dir().or_else(dirs::cache_dir).map(|dir| dir.join("fimd"));
        match env::var_os(RUNTIME_DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => self.dir.clone(),
            _ => state_dir.unwrap_or_else(|| self.dir.clone()),
        }
    }

    /// The newest file of the log, if there is one.
    pub fn log_file(&self) -> Option<PathBuf> {
        Some(self.log_dir().join(log_file::NAME)).filter(|path| path.exists())
    }

    /// What a detached daemon says on stderr.
    pub(super) fn last_words(&self) -> PathBuf {
        self.dir.join("last-words")
    }

    /// The mark that a model is being loaded.
    pub(super) fn load_marker(&self) -> PathBuf {
        self.dir.join("loading")
    }

    /// Path of the socket, for messages.
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
        name.with_context(|| format!("{} is no valid address of a socket", self.socket_path().display()))
    }

    /// Makes this process the daemon; `None` when another one is. The system releases the lock on any exit of the
    /// holder.
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

    /// Whether the user has stopped the daemon and not started it since.
    pub fn is_stopped(&self) -> bool {
        self.stop_marker().exists()
    }

    /// Records that the user has stopped the daemon.
    pub fn mark_stopped(&self) -> io::Result<()> {
        fs::write(self.stop_marker(), "")
    }

    /// Undoes [`Self::mark_stopped`].
    pub fn clear_stopped(&self) {
        let _ = fs::remove_file(self.stop_marker());
    }

    fn stop_marker(&self) -> PathBuf {
        self.dir.join("stopped")
    }
}

#[cfg(unix)]
fn default_dir() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
    match runtime {
        Some(dir) => Path::new(&dir).join("fimd"),
        None => env::temp_dir().join(format!("fimd-{}", rustix::process::geteuid().as_raw())),
    }
}

#[cfg(not(unix))]
fn default_dir() -> PathBuf {
    dirs::data_local_dir().unwrap_or_else(env::temp_dir).join("fimd")
}

/// Creates a folder that only this user can enter, or checks that it is one.
fn make_private(dir: &Path) -> Result<()> {
    let cannot = || format!("cannot create the folder {}", dir.display());
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).with_context(cannot)?;
    }
    let builder = fs::DirBuilder::new();
    #[cfg(unix)]
    let builder = {
        let mut builder = builder;
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
    };
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
        let runtime_dir = RuntimeDir { dir: dir.path().into() };
        let lock = runtime_dir.lock().unwrap();
        assert!(lock.is_some() && runtime_dir.lock().unwrap().is_none());
        drop(lock);
        assert!(runtime_dir.lock().unwrap().is_some());
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
