//! The state directory: made by the first server that needs it, removed by the last one to leave.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use runtime_api::{Error, Result, ResultExt};

/// How often to start over when another server removes the directory in the same moment.
const ATTEMPTS: usize = 10;

/// A state directory in use. As long as one server holds it, nobody removes it: users hold a shared
/// lock (flock(2)) on it, and who wants to remove it needs the exclusive one.
pub(crate) struct StateDirectory {
    path: PathBuf,
    lock: File,
}

impl StateDirectory {
    /// Makes the directory, with mode 0700, unless it is there, and holds it.
    ///
    /// # Errors
    /// `Internal` naming the path.
    pub(crate) fn hold(path: PathBuf) -> Result<Self> {
        let making = || format!("make state directory {}", path.display());
        for _ in 0..ATTEMPTS {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).internal(making)?;
            let Ok(lock) = File::open(&path) else { continue };
            match lock.try_lock_shared() {
                Ok(()) if names(&path, &lock) => return Ok(Self { path, lock }),
                // Somebody is removing it, or just has.
                Ok(()) | Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(TryLockError::Error(error)) => return Err(error).internal(making),
            }
        }
        Err(Error::unavailable(format!("state directory {} keeps vanishing", path.display())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory up, and removes it if nothing is left in it and nobody else holds it.
    pub(crate) fn release(self) {
        drop(self.lock);
        remove_unused(&self.path);
    }
}

/// Removes the directory if nothing is in it and no server holds it. What stays is another's.
pub(crate) fn remove_unused(path: &Path) {
    let Ok(directory) = File::open(path) else { return };
    if directory.try_lock().is_ok()
        && let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::DirectoryNotEmpty
    {
        log::warn!("remove state directory {}: {error}", path.display());
    }
}

fn names(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(now), Ok(held)) => (now.dev(), now.ino()) == (held.dev(), held.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_removes_the_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("vmrt/0123");
        let one = StateDirectory::hold(path.clone()).unwrap();
        let two = StateDirectory::hold(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        one.release();
        remove_unused(&path);
        assert!(path.exists());
        two.release();
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_with_something_in_it_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("0123");
        let held = StateDirectory::hold(path.clone()).unwrap();
        fs::create_dir(path.join("sandbox")).unwrap();
        held.release();
        assert!(path.join("sandbox").exists());
    }
}
