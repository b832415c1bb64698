//! A child process, watched by a descriptor: no signal handler is installed in what may be somebody
//! else's daemon, and no number can be mistaken for a reused one.
#![expect(unsafe_code, reason = "AsyncFd takes descriptors that it cannot check")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid, waitpid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A child that nobody else reaps. It is killed when it is dropped before its end.
pub(crate) struct Child {
    pid: Pid,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    reaped: bool,
}

/// How it ended: its exit code, or none when a signal has ended it or somebody else has reaped it.
pub(crate) type ExitCode = Option<i32>;

impl Child {
    /// Watches the child that has just been made under this number.
    pub(crate) fn watch(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
            // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd
            // does after deregistering it.
            Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
        };
        match watch() {
            Ok(pidfd) => Ok(Self { pid, pidfd: Arc::new(pidfd), reaped: false }),
            Err(error) => {
                kill_process(pid, Signal::KILL)?;
                waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        if let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            log::warn!("cannot kill process {}: {error}", self.pid());
        }
    }

    /// Waits for its end and reaps it. Not to be asked twice.
    pub(crate) async fn exited(&mut self) -> ExitCode {
        let code = reap(&self.pidfd).await;
        self.reaped = true;
        code
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        let pidfd = Arc::clone(&self.pidfd);
        // Without an executor this process is about to end, and the kernel reaps.
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            executor.spawn(async move { reap(&pidfd).await });
        }
    }
}

async fn reap(pidfd: &AsyncFd<OwnedFd>) -> ExitCode {
    while let Ok(mut ready) = pidfd.readable().await {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), options) {
            Ok(None) => ready.clear_ready(),
            Ok(Some(end)) => return end.exit_status(),
            // Somebody else has reaped it.
            Err(_) => return None,
        }
    }
    None
}
