//! One process of a container: its life, its streams and the watch over its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_api::{
    ErrorKind, EventKind, ExitStatus, KillScope, Pid, ProcessRef, Result, Signal, Status, Stdio,
};
use tokio::time::timeout;

use crate::container::Container;
use crate::machine::Machine;
use crate::phase::{Life, Phase};
use crate::phases::Phases;
use crate::streams::{OpenStreams, Streams};

/// The exit code of a process that a signal 9, or the death of its VM, has ended.
const KILLED: u32 = 137;
/// How long the init's exit waits for the exits of the execs, which come first.
const EXEC_EXIT_DEADLINE: Duration = Duration::from_secs(5);

/// A process, an init or an exec.
pub(crate) struct Process {
    pub(crate) reference: ProcessRef,
    pub(crate) stdio: Stdio,
    pub(crate) life: Life,
    streams: Mutex<Option<Streams>>,
}

impl Process {
    pub(crate) fn new(reference: ProcessRef, stdio: Stdio) -> Self {
        Self { reference, stdio, life: Life::new(), streams: Mutex::new(None) }
    }

    /// Takes the streams over; they live until [`Process::take_streams`].
    pub(crate) fn put_streams(&self, streams: Streams) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = Some(streams);
    }

    pub(crate) fn take_streams(&self) -> Option<Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn close_input(&self) {
        if let Some(streams) = &*self.streams.lock().unwrap_or_else(PoisonError::into_inner) {
            streams.close_input();
        }
    }

    /// Starts it: `Created` → `Running`, with its event.
    pub(crate) async fn start(&self, container: &Container, machine: &Machine) -> Result<Pid> {
        let created = |phase| (phase == Phase::Created).then_some(Phase::Starting);
        self.life.advance(&self.reference, created, || {})?;
        let pid = machine.pid();
        let mut phases = Phases::begin();
        match machine.guest().tasks().start(&self.reference).await {
            Ok(_) => {
                phases.end("start");
                log::info!("phases of {}: {phases}", self.reference);
                let running = |phase| (phase == Phase::Starting).then_some(Phase::Running);
                let event = match &self.reference.exec {
                    None => EventKind::Start { pid },
                    Some(exec) => EventKind::ExecStarted { exec: exec.clone(), pid },
                };
                self.life.advance(&self.reference, running, || container.announce(event))?;
                Ok(pid)
            }
            Err(error) => {
                // It may be tried again, or deleted; if it has ended its watch will say so.
                self.life.set(Phase::Created);
                Err(error)
            }
        }
    }

    /// Comes back to a process that an earlier run has created: its state is what the guest says, and
    /// its exit, if there was one meanwhile, is announced like any other.
    ///
    /// # Errors
    /// `NotFound` when the guest does not know it.
    pub(crate) async fn take_over(
        self: Arc<Self>,
        container: &Arc<Container>,
        machine: Arc<Machine>,
    ) -> Result<()> {
        let state = machine.guest().tasks().state(&self.reference).await?;
        let streams = OpenStreams::reopen(&self.stdio, container.log_names(&self)).await;
        let journal = container.sandbox.keep(&machine, &self.reference, &streams).await?;
        self.put_streams(streams.run(machine.guest(), &self.reference, journal));
        self.life.set(match state.status {
            Status::Created => Phase::Created,
            Status::Paused => Phase::Paused,
            Status::Running | Status::Stopped => Phase::Running,
        });
        tokio::spawn(self.watch(Arc::clone(container), machine));
        Ok(())
    }

    /// Sends a signal.
    pub(crate) async fn kill(
        &self,
        machine: &Machine,
        signal: Signal,
        scope: KillScope,
    ) -> Result<()> {
        machine.guest().tasks().kill(&self.reference, signal, scope).await
    }

    /// Waits for the end of the process in the guest, or of the guest, and latches it.
    pub(crate) async fn watch(self: Arc<Self>, container: Arc<Container>, machine: Arc<Machine>) {
        let exit = match machine.guest().tasks().wait(&self.reference).await {
            Ok(exit) => exit,
            // It was deleted without having run.
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => {
                machine.lost(&error).await;
                ExitStatus { code: KILLED, at: SystemTime::now() }
            }
        };
        // The start must be told of before the exit, and so must what it died of.
        self.life.reach(|phase| *phase != Phase::Starting).await;
        if exit.code == KILLED {
            container.look_for_oom().await;
        }
        self.flush().await;
        if self.reference.exec.is_none() {
            container.execs_exited(EXEC_EXIT_DEADLINE).await;
        }
        let exec = self.reference.exec.clone();
        let event = EventKind::Exit { exec, pid: machine.pid(), exit };
        let alive = |phase: Phase| match phase {
            Phase::Stopped(_) | Phase::Deleting(_) | Phase::Gone(_) => None,
            _ => Some(Phase::Stopped(exit)),
        };
        // Refused only when a deletion came first, which has told of the end itself.
        let _ = self.life.advance(&self.reference, alive, || container.announce(event));
    }

    async fn flush(&self) {
        // The streams are taken out for the wait, so that no lock is held across it.
        let Some(streams) = self.take_streams() else { return };
        streams.flush_for_exit().await;
        self.put_streams(streams);
    }

    /// Waits for the end, for at most `deadline`.
    pub(crate) async fn exited_within(&self, deadline: Duration) -> bool {
        timeout(deadline, self.life.exited()).await.is_ok()
    }
}
