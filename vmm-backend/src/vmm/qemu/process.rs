//! The QEMU process: how it starts, how its end is noticed, how it is made to end.
//!
//! Everything goes through a pidfd, so that no process id can be mistaken for a reused one and no
//! signal handler has to be installed in a process that may be somebody else's daemon.
#![expect(
    unsafe_code,
    reason = "pre_exec is the only race-free way to set PDEATHSIG; namespaces and AsyncFd take raw descriptors"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::vmm::{Lifetime, ProcessIdentity};

/// How long a killed QEMU may take to give its memory back before its owner gives up on it.
pub(super) const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Exited(i32),
    Signaled(i32),
    /// Somebody else reaped it.
    Lost,
}

/// What a process is given besides its arguments.
pub(super) struct Descriptors {
    pub(super) stdin: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What a process has in common with its owner.
pub(super) struct Ties {
    pub(super) lifetime: Lifetime,
    pub(super) network: Network,
}

/// A network namespace, ready to be entered.
pub(super) enum Network {
    New,
    Existing(OwnedFd),
}

impl Network {
    /// Moves the calling thread there. It only makes a system call.
    fn enter(&self) -> io::Result<()> {
        // SAFETY: both calls take integers only; the descriptor is open for as long as `self` lives.
        let entered = match self {
            Self::New => unsafe { libc::unshare(libc::CLONE_NEWNET) },
            Self::Existing(fd) => unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) },
        };
        if entered == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A process: a child, or one that an earlier run of this program has left.
pub(super) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    status: Mutex<Option<Status>>,
    kin: Kin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kin {
    /// It is reaped here, and its status read.
    Child,
    /// Whoever inherited it reaps it; only that it ends can be seen.
    Stranger,
}

impl Process {
    /// Starts a program in a process group of its own, with an empty environment and no descriptors
    /// but those given. A surviving process is started without pre_exec, by posix_spawn: its owner
    /// is a large daemon with many threads, whose descriptors are expected to be close-on-exec. What
    /// it inherits of the network comes from a thread that goes there first and ends at once.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[OsString],
        descriptors: Descriptors,
        ties: Ties,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .process_group(0)
            .stdin(descriptors.stdin)
            .stdout(Stdio::null())
            .stderr(descriptors.stderr);
        let network = ties.network;
        let mut child = match ties.lifetime {
            Lifetime::DiesWithOwner => {
                let owner = rustix::process::getpid();
                let prepare = move || network.enter().and_then(|()| tie_to(owner));
                // SAFETY: both only make system calls, so they are safe between fork and exec.
                unsafe { command.pre_exec(prepare) };
                command.spawn()?
            }
            Lifetime::Survives => thread::scope(|scope| {
                let spawn = || network.enter().and_then(|()| command.spawn());
                let spawning = thread::Builder::new().spawn_scoped(scope, spawn)?;
                spawning.join().unwrap_or_else(|_| Err(io::Error::other("the thread broke")))
            })?,
        };
        match watch(child.id()) {
            Ok((pid, pidfd)) => {
                raise_oom_score(pid);
                Ok(Self { pid, pidfd, status: Mutex::new(None), kin: Kin::Child })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Takes over a process that this program did not start; `None` when it has gone.
    pub(super) fn adopt(identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let (pid, pidfd) = match watch(identity.pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            watched => watched?,
        };
        // The descriptor names whoever has the number now: only after it is open the question who
        // that is has a lasting answer.
        let adopted = Self { pid, pidfd, status: Mutex::new(None), kin: Kin::Stranger };
        Ok(identity.is_alive().then_some(adopted))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Waits for the end and reaps.
    pub(super) async fn exited(&self) -> Status {
        loop {
            if let Some(status) = self.reap() {
                return status;
            }
            if let Ok(mut ready) = self.pidfd.readable().await {
                // A pidfd that has become readable stays so, but the wait below it is what decides.
                if let Some(status) = self.reap() {
                    return status;
                }
                ready.clear_ready();
            } else {
                return Status::Lost;
            }
        }
    }

    /// Sends SIGKILL; a process that has gone already is no error.
    pub(super) fn kill(&self) {
        if self.reap().is_none()
            && let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL)
        {
            log::warn!("cannot kill process {}: {error}", self.pid());
        }
    }

    /// Kills and reaps without an executor, for destructors. Blocks the thread for the milliseconds
    /// that the kernel needs to take the process down, in the worst case for [`KILL_DEADLINE`].
    pub(super) fn kill_and_reap(&self) {
        self.kill();
        let deadline = Timespec::try_from(KILL_DEADLINE).ok();
        let mut ends = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        if self.reap().is_none()
            && (poll(&mut ends, deadline.as_ref()).is_err() || self.reap().is_none())
        {
            log::error!("process {} is still there after SIGKILL", self.pid());
        }
    }

    /// The status if the process has ended; never blocks.
    pub(super) fn reap(&self) -> Option<Status> {
        let mut latched = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if latched.is_none() && self.kin == Kin::Stranger {
            let mut ends = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
            let ended = poll(&mut ends, Some(&Timespec::default())).is_ok_and(|count| count > 0);
            *latched = ended.then_some(Status::Lost);
        } else if latched.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            *latched = match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
                Ok(None) => None,
                Ok(Some(end)) => Some(match (end.exit_status(), end.terminating_signal()) {
                    (Some(code), _) => Status::Exited(code),
                    (None, Some(signal)) => Status::Signaled(signal),
                    (None, None) => Status::Lost,
                }),
                // ECHILD: whoever owns this process ignores SIGCHLD or waits for all of its
                // children.
                Err(_) => Some(Status::Lost),
            };
        }
        *latched
    }
}

/// Opens the pidfd of a child that has not been reaped.
fn watch(pid: u32) -> io::Result<(Pid, AsyncFd<OwnedFd>)> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd does
    // after deregistering it.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    Ok((pid, pidfd))
}

/// Runs between fork and exec: the process gets SIGKILL when the thread that forked ends, and keeps
/// no descriptor above stderr.
fn tie_to(owner: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(owner) {
        // The owner died before the signal was set: nobody is left to report to.
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: no pointers are involved; CLOEXEC leaves the descriptor by which std reports a failed
    // exec open.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Under memory pressure a sandbox has to go before the daemon that owns it, whose own score may be
/// -999.
fn raise_oom_score(pid: Pid) {
    let raise = || -> io::Result<()> {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
        let own: i32 = own.trim().parse().map_err(io::Error::other)?;
        let raised = (own + 1).clamp(0, 1000);
        std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), raised.to_string())
    };
    if let Err(error) = raise() {
        log::warn!("cannot raise the oom_score_adj of process {}: {error}", pid.as_raw_nonzero());
    }
}
