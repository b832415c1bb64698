//! The agent's side of a helper at work.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use runtime_api::{Error, Result, ResultExt};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::helper::{Channel, Confinement, Reply, Request, Role};
use crate::reaper::Expectation;
use crate::spares::{Spare, Spares};

/// How long a helper may take; then it is killed with everything it has begun.
const DEADLINE: Duration = Duration::from_secs(30);

/// Gives requests to helpers.
pub(crate) struct Launcher {
    spares: Spares,
}

/// What a helper has made.
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) exit: oneshot::Receiver<u32>,
    /// To an init process, which waits there for its start.
    pub(crate) channel: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) filter: Option<OwnedFd>,
    pub(crate) confinement: Confinement,
}

impl Launcher {
    pub(crate) fn new(spares: Spares) -> Self {
        Self { spares }
    }

    pub(crate) fn spares(&self) -> &Spares {
        &self.spares
    }

    /// Has a helper do what `request` says. When the future is dropped, the helper is killed.
    ///
    /// `joined` names the cgroup that exists, perhaps, also when the request has failed.
    pub(crate) async fn launch(
        &self,
        request: &Request,
        fds: Vec<OwnedFd>,
        joined: &mut Option<PathBuf>,
    ) -> Result<Launched> {
        let launched = tokio::time::timeout(DEADLINE, self.run(request, fds, joined)).await;
        self.spares.refill_later();
        launched.unwrap_or_else(|_| {
            let seconds = DEADLINE.as_secs();
            Err(Error::deadline_exceeded(format!("a helper did not answer within {seconds} s")))
        })
    }

    async fn run(
        &self,
        request: &Request,
        fds: Vec<OwnedFd>,
        joined: &mut Option<PathBuf>,
    ) -> Result<Launched> {
        if matches!(request, Request::Create(_)) {
            let cradle = self.spares.take(Role::Cradle).await?;
            if let Some(launched) = self.ask(cradle, request, &fds, joined).await? {
                return Ok(launched);
            }
        }
        let helper = self.spares.take(Role::Helper).await?;
        self.ask(helper, request, &fds, joined)
            .await?
            .ok_or_else(|| Error::internal("a helper cannot do what it is for"))
    }

    /// `None` when it takes a helper of the other kind.
    async fn ask(
        &self,
        spare: Spare,
        request: &Request,
        fds: &[OwnedFd],
        joined: &mut Option<PathBuf>,
    ) -> Result<Option<Launched>> {
        let Spare { socket, pid, ended, group, mut cgroup } = spare;
        let mut helper = Working { pid, group };
        let expectation = self.spares.reaper().expect();
        Channel::send_request(socket.get_ref(), request, fds)?;
        let mut process = Subject { pid, ended };
        loop {
            let received = receive(&socket).await.internal(|| "receive the answer of a helper")?;
            match received {
                Some((Reply::Joining { cgroup: path }, _)) => {
                    if let Some(own) = &mut cgroup {
                        own.take_over(&path);
                    }
                    *joined = Some(path);
                }
                Some((Reply::Born { pid }, _)) => {
                    helper.pid = Pid::from_raw(pid);
                    process = Subject::claim(&expectation, pid);
                }
                Some((Reply::Unsuited, _)) => {
                    helper.release();
                    return Ok(None);
                }
                Some((Reply::Done { pid, confinement }, fds)) => {
                    helper.release();
                    if let Some(pid) = pid {
                        process = Subject::claim(&expectation, pid);
                    }
                    return Ok(Some(process.launched(socket.into_inner(), confinement, fds)));
                }
                Some((Reply::Failed { fault, message }, _)) => {
                    helper.release();
                    return Err(Error::new(fault.kind(), message));
                }
                None => {
                    let code = (&mut process.ended).await.unwrap_or_default();
                    helper.release();
                    let message = format!("a helper ended with code {code} before it answered");
                    return Err(Error::internal(message));
                }
            }
        }
    }
}

/// The process that the request is about, as far as it is known.
struct Subject {
    pid: Pid,
    ended: oneshot::Receiver<u32>,
}

impl Subject {
    fn claim(expectation: &Expectation, pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        Self { pid, ended: expectation.claim(pid) }
    }

    fn launched(self, channel: OwnedFd, confinement: Confinement, fds: Vec<OwnedFd>) -> Launched {
        let mut fds = fds.into_iter();
        let filter = if confinement.has_filter { fds.next() } else { None };
        let Self { pid, ended: exit } = self;
        Launched { pid, exit, channel, console: fds.next(), filter, confinement }
    }
}

/// A helper at work. It is killed, with its process group, when it is dropped before its answer.
struct Working {
    pid: Pid,
    group: Pid,
}

impl Working {
    /// Lets the helper end by itself.
    fn release(&mut self) {
        self.pid = Pid::from_raw(0);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.pid.as_raw() <= 0 {
            return;
        }
        // The first process of a container leaves the group at some point.
        for killed in [killpg(self.group, Signal::SIGKILL), kill(self.pid, Signal::SIGKILL)] {
            match killed {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => log::error!("kill helper {}: {error}", self.pid),
            }
        }
    }
}

/// Receives one answer; `None` when the helper has gone.
pub(crate) async fn receive(
    socket: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
    loop {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| Channel::receive_reply(socket.get_ref())) {
            Ok(reply) => return reply,
            Err(_would_block) => {}
        }
    }
}
