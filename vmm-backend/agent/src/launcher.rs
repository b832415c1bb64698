//! The agent's side of a helper.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use runtime_api::{Error, Result, ResultExt};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::helper::{Channel, ROLE, Reply, Request};
use crate::reaper::Reaper;
use crate::sys;

/// How long a helper may take; then it is killed with everything it has begun.
const DEADLINE: Duration = Duration::from_secs(30);

/// Starts helpers.
pub(crate) struct Launcher {
    reaper: Arc<Reaper>,
    executable: PathBuf,
}

/// What a helper has made.
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) exit: oneshot::Receiver<u32>,
    pub(crate) console: Option<OwnedFd>,
}

impl Launcher {
    pub(crate) fn new(reaper: Arc<Reaper>, executable: PathBuf) -> Self {
        Self { reaper, executable }
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
        tokio::time::timeout(DEADLINE, self.run(request, fds, joined)).await.unwrap_or_else(|_| {
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
        let expectation = self.reaper.expect();
        let (ours, theirs) = Channel::pair()?;
        ours.send_request(request, &fds)?;
        // The process holds the only copies from now on, so that its streams end with it.
        drop(fds);
        let mut helper = Helper { pid: self.spawn(theirs)? };
        let mut ended = expectation.claim(helper.pid);
        let socket = sys::watch(ours.into_socket()).internal(|| "watch a helper")?;
        loop {
            match receive(&socket).await.internal(|| "receive the answer of a helper")? {
                Some((Reply::Joining { cgroup: path }, _)) => *joined = Some(path),
                Some((Reply::Done { pid }, console)) => {
                    helper.release();
                    let pid = Pid::from_raw(pid);
                    return Ok(Launched { pid, exit: expectation.claim(pid), console });
                }
                Some((Reply::Failed { fault, message }, _)) => {
                    helper.release();
                    return Err(Error::new(fault.kind(), message));
                }
                None => {
                    let code = (&mut ended).await.unwrap_or_default();
                    helper.release();
                    let message = format!("a helper ended with code {code} before it answered");
                    return Err(Error::internal(message));
                }
            }
        }
    }

    fn spawn(&self, channel: Channel) -> Result<Pid> {
        let child = Command::new(&self.executable)
            .arg(ROLE)
            .env_clear()
            .stdin(Stdio::from(channel.into_socket()))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .internal(|| format!("run {} as a helper", self.executable.display()))?;
        let pid = i32::try_from(child.id()).internal(|| "the number of a helper")?;
        Ok(Pid::from_raw(pid))
    }
}

/// A helper that runs. It is killed with its process group when it is dropped before its answer.
struct Helper {
    pid: Pid,
}

impl Helper {
    /// Lets the helper end by itself.
    fn release(&mut self) {
        self.pid = Pid::from_raw(0);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.pid.as_raw() > 0
            && let Err(error) = killpg(self.pid, Signal::SIGKILL)
            && error != Errno::ESRCH
        {
            log::error!("kill helper {}: {error}", self.pid);
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    loop {
        let mut guard = socket.readable().await?;
        match guard.try_io(|socket| Channel::receive_reply(socket.get_ref())) {
            Ok(reply) => return reply,
            Err(_would_block) => {}
        }
    }
}
