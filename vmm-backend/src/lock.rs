//! Locks between processes (flock(2)), waited for without blocking the executor.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_millis(10);

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Beside others who read.
    Shared,
    /// Alone.
    Exclusive,
}

/// Waits for the lock of an existing file or directory; to close the answer is to unlock.
///
/// # Errors
/// `TimedOut` after `deadline`; those of opening it.
pub(crate) async fn lock(path: &Path, hold: Hold, deadline: Duration) -> io::Result<File> {
    let file = File::open(path)?;
    timeout(deadline, wait_for(&file, hold)).await??;
    Ok(file)
}

/// As [`lock`], for a file that is made when it is not there and may be removed by whoever holds it
/// alone.
///
/// # Errors
/// As for [`lock`].
pub(crate) async fn lock_file(path: &Path, hold: Hold, deadline: Duration) -> io::Result<File> {
    let lock = async {
        loop {
            let file = open(path)?;
            wait_for(&file, hold).await?;
            if still_named(&file, path)? {
                return Ok(file);
            }
        }
    };
    timeout(deadline, lock).await?
}

/// As [`lock_file`] without waiting; `None` when somebody holds it.
///
/// # Errors
/// Those of opening it.
pub(crate) fn try_lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    Ok((try_once(&file, Hold::Exclusive)? && still_named(&file, path)?).then_some(file))
}

/// Waits for the lock of an open file.
async fn wait_for(file: &File, hold: Hold) -> io::Result<()> {
    while !try_once(file, hold)? {
        sleep(INTERVAL).await;
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the path has not been given to another file, or to none, in the meantime.
fn still_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn try_once(file: &File, hold: Hold) -> io::Result<bool> {
    let locked = match hold {
        Hold::Shared => file.try_lock_shared(),
        Hold::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_never_released_meets_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), Hold::Exclusive, SECOND).await.unwrap();
        let error = lock(directory.path(), Hold::Shared, SECOND).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(held);
        let _one = lock(directory.path(), Hold::Shared, SECOND).await.unwrap();
        let _two = lock(directory.path(), Hold::Shared, SECOND).await.unwrap();
        assert!(lock(directory.path(), Hold::Exclusive, SECOND).await.is_err());
    }

    #[tokio::test]
    async fn whoever_has_waited_for_a_removed_file_locks_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock_file(&path, Hold::Exclusive, SECOND).await.unwrap();
        assert!(try_lock_file(&path).unwrap().is_none());
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { lock_file(&path, Hold::Exclusive, SECOND).await }
        });
        sleep(3 * INTERVAL).await;
        std::fs::remove_file(&path).unwrap();
        drop(held);
        let file = waiting.await.unwrap().unwrap();
        assert!(still_named(&file, &path).unwrap());
    }
}
