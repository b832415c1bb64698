//! The socket file of a server.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use runtime_api::{Error, Result, ResultExt};

/// How long to wait for another `start` that is binding its socket.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);

/// What [`claim`] has found.
pub(crate) enum Claim {
    /// Nobody listened: here is the listener.
    Ours(UnixListener),
    /// A server listens already.
    Taken,
}

/// Listens on `path`, unless a server does so already. A file whose server is gone is replaced.
///
/// # Errors
/// `Internal` naming the path; `DeadlineExceeded` when others hold the directory.
pub(crate) fn claim(path: &Path) -> Result<Claim> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .internal(|| format!("create directory {}", directory.display()))?;
    // Between bind(2) and listen(2) a socket looks like one whose server is gone. The lock keeps
    // the members of a pod, which may be started at the same time, from taking it from each other.
    let _lock = lock(directory)?;
    let bind = || UnixListener::bind(path);
    let listener = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if listens(path)? {
                return Ok(Claim::Taken);
            }
            unlink(path)?;
            bind()
        }
        other => other,
    };
    let listener = listener.internal(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .internal(|| format!("protect {}", path.display()))?;
    Ok(Claim::Ours(listener))
}

/// Removes `path` if it is a socket that nobody listens on.
///
/// # Errors
/// `Internal` naming the path.
pub(crate) fn remove_stale(path: &Path) -> Result<()> {
    let Ok(directory) = path.parent().map(File::open).transpose() else { return Ok(()) };
    let _lock = directory.map(lock_file).transpose()?;
    if listens(path)? { Ok(()) } else { unlink(path) }
}

/// The file of our own socket, to be removed when the server leaves.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    pub(crate) fn of(path: PathBuf) -> Self {
        Self { identity: identity(&path), path }
    }

    /// Removes the file unless another server has put its own there meanwhile.
    ///
    /// # Errors
    /// `Internal` naming the path.
    pub(crate) fn remove(&self) -> Result<()> {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            unlink(&self.path)?;
        }
        Ok(())
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn lock(directory: &Path) -> Result<File> {
    File::open(directory)
        .internal(|| format!("open directory {}", directory.display()))
        .and_then(lock_file)
}

fn lock_file(file: File) -> Result<File> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(Error::internal("lock the directory of the sockets").with_source(error));
            }
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::deadline_exceeded(format!(
                    "the directory of the sockets stayed locked for {LOCK_DEADLINE:?}"
                )));
            }
        }
    }
}

/// Whether a server listens on `path`. It does not wait for the server, which may be stopped.
fn listens(path: &Path) -> Result<bool> {
    let probe = || format!("probe {}", path.display());
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None).internal(probe)?;
    let address = UnixAddr::new(path).internal(probe)?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&client), &address) {
        // EAGAIN: its queue of connections is full.
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTSOCK) => Ok(false),
        Err(error) => Err(error).internal(probe),
    }
}

fn unlink(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}", path.display())).with_source(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(path: &Path) -> Option<UnixListener> {
        match claim(path).unwrap() {
            Claim::Ours(listener) => Some(listener),
            Claim::Taken => None,
        }
    }

    #[test]
    fn a_living_socket_is_left_alone_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s/socket");
        let listener = ours(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert!(ours(&path).is_none());
        remove_stale(&path).unwrap();
        assert!(path.exists());

        drop(listener);
        let again = ours(&path).unwrap();
        drop(again);
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        remove_stale(&path).unwrap();
    }

    #[test]
    fn a_server_with_a_full_queue_still_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = ours(&path).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(listens(&path).unwrap());
        assert!(ours(&path).is_none());
    }

    #[test]
    fn a_server_does_not_remove_its_successors_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = ours(&path);
        let file = SocketFile::of(path.clone());
        // Kept while the successor is made, or the filesystem could give out its inode again.
        fs::rename(&path, directory.path().join("old")).unwrap();
        let successor = ours(&path);
        file.remove().unwrap();
        assert!(path.exists());
        SocketFile::of(path.clone()).remove().unwrap();
        assert!(!path.exists());
        drop((first, successor));
    }
}
