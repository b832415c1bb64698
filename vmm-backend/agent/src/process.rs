//! One process of a container, as the agent sees it.
//!
//! ```text
//!            begin_start            started                 end  
//!   Created ─────────────► Starting ─────────► Running ───────────► Stopped
//!      │                      │ start failed                           ▲
//!      │                      └──► forgotten (an exec)                 │
//!      └──────────────────────── end (killed) ─────────────────────────┘
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::Pid;
use runtime_api::{
    Error, ExitStatus, ProcessRef, Result, ResultExt, Signal, Status, Stdio, WindowSize,
};
use tokio::sync::watch;

use crate::cgroup;
use crate::streams::{Chunk, Output, Streams, Wanted};

/// Where a process is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// An exec has no number before it is started.
    Created(Option<Pid>),
    Starting,
    Running(Pid),
    Stopped(Option<Pid>),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ahead,
    Exited(ExitStatus),
    /// Deleted without having run.
    Forgotten,
}

/// A process and its streams.
pub(crate) struct Process {
    pub(crate) name: ProcessRef,
    pub(crate) stdio: Stdio,
    phase: Mutex<Phase>,
    end: watch::Sender<End>,
    /// There from the creation of an init, and from the start of an exec.
    streams: watch::Sender<Option<Arc<Streams>>>,
    early_size: Mutex<Option<WindowSize>>,
    early_close: AtomicBool,
}

impl Process {
    pub(crate) fn new(name: ProcessRef, stdio: Stdio, phase: Phase) -> Self {
        Self {
            name,
            stdio,
            phase: Mutex::new(phase),
            end: watch::Sender::new(End::Ahead),
            streams: watch::Sender::new(None),
            early_size: Mutex::new(None),
            early_close: AtomicBool::new(false),
        }
    }

    /// The phase, held for a change.
    pub(crate) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> Status {
        match *self.phase() {
            Phase::Created(_) | Phase::Starting => Status::Created,
            Phase::Running(_) => Status::Running,
            Phase::Stopped(_) => Status::Stopped,
        }
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        match *self.phase() {
            Phase::Created(pid) | Phase::Stopped(pid) => pid,
            Phase::Starting => None,
            Phase::Running(pid) => Some(pid),
        }
    }

    pub(crate) fn exit(&self) -> Option<ExitStatus> {
        match *self.end.borrow() {
            End::Exited(exit) => Some(exit),
            End::Ahead | End::Forgotten => None,
        }
    }

    /// Whether the process may still write or exit.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(*self.phase(), Phase::Starting | Phase::Running(_))
    }

    /// Gives the process its streams, with what was asked of them before.
    pub(crate) fn attach(&self, streams: Streams) {
        let streams = Arc::new(streams);
        let size = self.early_size.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = size.map(|size| streams.resize(size)) {
            log::warn!("{}: {}", self.name, error.chain());
        }
        if self.early_close.load(Ordering::Relaxed) {
            close_later(Arc::clone(&streams));
        }
        self.streams.send_replace(Some(streams));
    }

    /// Latches the end, then announces it, then lets go of those who wait.
    pub(crate) fn end(&self, code: u32, announce: impl FnOnce(ExitStatus)) {
        let exit = ExitStatus { code, at: SystemTime::now() };
        let mut phase = self.phase();
        *phase = match *phase {
            Phase::Created(pid) | Phase::Stopped(pid) => Phase::Stopped(pid),
            Phase::Starting => Phase::Stopped(None),
            Phase::Running(pid) => Phase::Stopped(Some(pid)),
        };
        drop(phase);
        // Those who wait run no earlier than this task lets them.
        self.end.send_replace(End::Exited(exit));
        announce(exit);
    }

    /// Lets everybody go who waits for a process that will never have run.
    pub(crate) fn forget(&self) {
        self.end.send_if_modified(|end| {
            let waiting = matches!(end, End::Ahead);
            if waiting {
                *end = End::Forgotten;
            }
            waiting
        });
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Result<ExitStatus> {
        let mut end = self.end.subscribe();
        let end = end.wait_for(|end| !matches!(end, End::Ahead)).await;
        match end.as_deref() {
            Ok(End::Exited(exit)) => Ok(*exit),
            _ => Err(Error::not_found(format!("{}: deleted before it ran", self.name))),
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let phase = self.phase();
        let stopped = || Error::not_found(format!("{} has stopped", self.name));
        match *phase {
            Phase::Created(Some(pid)) | Phase::Running(pid) => {
                // The number is not reused: the exit is latched before anybody else can fork.
                match cgroup::send(pid, signal) {
                    Err(Errno::ESRCH) => Err(stopped()),
                    sent => sent
                        .internal(|| format!("send signal {} to {}", signal.number(), self.name)),
                }
            }
            Phase::Created(None) | Phase::Starting => {
                Err(Error::failed_precondition(format!("{} has not been started", self.name)))
            }
            Phase::Stopped(_) => Err(stopped()),
        }
    }

    /// Takes output, see [`Reader::read`](crate::streams::Reader::read).
    pub(crate) async fn read_output(&self, output: Output, wanted: Wanted) -> Result<Chunk> {
        match self.streams().await {
            Some(streams) => {
                let ended = async { drop(self.wait().await) };
                streams.output(output).read(wanted, ended).await
            }
            None => Ok(Chunk::End),
        }
    }

    /// Gives input, waiting for room.
    pub(crate) async fn write_input(&self, data: &[u8]) -> Result<()> {
        let closed = || Error::failed_precondition(format!("the input of {} is closed", self.name));
        if self.early_close.load(Ordering::Relaxed) {
            return Err(closed());
        }
        self.streams().await.ok_or_else(closed)?.input().write(data).await
    }

    /// Ends the input after what is queued; does not wait for that.
    pub(crate) fn close_input(&self) {
        self.early_close.store(true, Ordering::Relaxed);
        let streams = self.streams.borrow().clone();
        if let Some(streams) = streams {
            close_later(streams);
        }
    }

    pub(crate) fn resize(&self, size: WindowSize) -> Result<()> {
        if matches!(*self.phase(), Phase::Stopped(_)) {
            return Err(Error::failed_precondition(format!("{} has stopped", self.name)));
        }
        let streams = self.streams.borrow().clone();
        match streams {
            Some(streams) => streams.resize(size),
            None => {
                *self.early_size.lock().unwrap_or_else(PoisonError::into_inner) = Some(size);
                Ok(())
            }
        }
    }

    /// Waits for the streams; `None` when the process has ended without any.
    async fn streams(&self) -> Option<Arc<Streams>> {
        let mut streams = self.streams.subscribe();
        tokio::select! {
            biased;
            streams = streams.wait_for(Option::is_some) => streams.ok().and_then(|s| s.clone()),
            _ = self.wait() => None,
        }
    }
}

fn close_later(streams: Arc<Streams>) {
    tokio::spawn(async move { streams.input().close().await });
}

#[cfg(test)]
mod tests {
    use runtime_api::{ContainerId, ExecId};

    use super::*;

    fn exec() -> Process {
        let (container, exec) = (ContainerId::parse("c"), ExecId::parse("e"));
        let name = ProcessRef::exec(container.unwrap(), exec.unwrap());
        Process::new(name, Stdio::default(), Phase::Created(None))
    }

    #[tokio::test]
    async fn who_waits_for_a_forgotten_process_is_told_so() {
        let process = exec();
        process.forget();
        assert!(process.wait().await.is_err());
        let wanted = Wanted { offset: 0, credit: 1, knows_drained: false };
        let output = process.read_output(Output::Stdout, wanted).await.unwrap();
        assert_eq!(output, Chunk::End);
    }

    #[tokio::test]
    async fn an_exit_stays_whatever_happens_later() {
        let process = exec();
        process.end(42, |exit| assert_eq!(exit.code, 42));
        process.forget();
        assert_eq!(process.wait().await.unwrap().code, 42);
        assert_eq!(process.status(), Status::Stopped);
        assert!(process.signal(Signal::KILL).is_err());
    }
}
