//! The life of one process, as the host sees it.
//!
//! ```text
//!  Creating ──► Created ──► Starting ──► Running ──► Freezing ──► Paused ──► Thawing ──► Running
//!      │           │           │            │            │           │          │
//!      │           └───────────┴────────────┴── exit ────┴───────────┴──────────┘
//!      │ failure                                   ▼
//!      ▼                                       Stopped ──► Deleting ──► Gone
//!    Gone
//! ```
//!
//! A phase that ends in `-ing` belongs to one operation that is under way; every other operation
//! that would change the phase answers `FailedPrecondition` meanwhile.

use runtime_api::{Error, ExitStatus, ProcessRef, Result, Status};
use tokio::sync::watch;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Created,
    Starting,
    Running,
    Freezing,
    Paused,
    Thawing,
    Stopped(ExitStatus),
    Deleting(ExitStatus),
    /// The exit is kept for those that have been waiting since before the deletion. There is none
    /// after a creation that failed.
    Gone(Option<ExitStatus>),
}

impl Phase {
    /// The state that a daemon is told; `None` for what does not exist for it.
    pub(crate) fn status(self) -> Option<Status> {
        match self {
            Self::Creating | Self::Gone(_) => None,
            Self::Created | Self::Starting => Some(Status::Created),
            Self::Running | Self::Freezing => Some(Status::Running),
            Self::Paused | Self::Thawing => Some(Status::Paused),
            Self::Stopped(_) | Self::Deleting(_) => Some(Status::Stopped),
        }
    }

    /// How the process ended, once it has.
    pub(crate) fn exit(self) -> Option<ExitStatus> {
        match self {
            Self::Stopped(exit) | Self::Deleting(exit) => Some(exit),
            Self::Gone(exit) => exit,
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Freezing => "being paused",
            Self::Paused => "paused",
            Self::Thawing => "being resumed",
            Self::Stopped(_) => "stopped",
            Self::Deleting(_) => "being deleted",
            Self::Gone(_) => "gone",
        }
    }
}

/// The phase of one process, latched and watched.
pub(crate) struct Life {
    phase: watch::Sender<Phase>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Creating) }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes from one phase to the next, and does `latched` before anybody can see a later one.
    ///
    /// # Errors
    /// `FailedPrecondition` naming the process and its phase when it is in another one; `NotFound`
    /// when it is gone.
    pub(crate) fn advance(
        &self,
        process: &ProcessRef,
        next: impl FnOnce(Phase) -> Option<Phase>,
        latched: impl FnOnce(),
    ) -> Result<()> {
        let mut refused = None;
        self.phase.send_if_modified(|phase| match next(*phase) {
            Some(next) => {
                *phase = next;
                latched();
                true
            }
            None => {
                refused = Some(*phase);
                false
            }
        });
        match refused {
            None => Ok(()),
            Some(Phase::Gone(_)) => Err(Error::not_found(format!("{process} is gone"))),
            Some(phase) => {
                Err(Error::failed_precondition(format!("{process} is {}", phase.name())))
            }
        }
    }

    /// Sets the phase, whatever it was.
    pub(crate) fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until the phase is one of those that `wanted` accepts.
    pub(crate) async fn reach(&self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        let mut watcher = self.phase.subscribe();
        // The sender is in `self`, so the wait cannot fail.
        watcher.wait_for(wanted).await.map_or(Phase::Gone(None), |phase| *phase)
    }

    /// Waits for the end of the process; `None` when it never came to exist.
    pub(crate) async fn exited(&self) -> Option<ExitStatus> {
        let over = |phase: &Phase| phase.exit().is_some() || matches!(phase, Phase::Gone(_));
        self.reach(over).await.exit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::{ContainerId, ErrorKind};
    use std::time::SystemTime;

    fn process() -> ProcessRef {
        ProcessRef::init(ContainerId::parse("c").unwrap())
    }

    #[test]
    fn a_refused_step_names_the_phase_and_changes_nothing() {
        let life = Life::new();
        let start = |phase| (phase == Phase::Created).then_some(Phase::Starting);
        let error = life.advance(&process(), start, || panic!("announced")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("being created"), "{error}");
        assert_eq!(life.phase(), Phase::Creating);
        life.set(Phase::Gone(None));
        assert_eq!(life.advance(&process(), start, || {}).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn who_waited_before_the_deletion_gets_the_exit() {
        let exit = ExitStatus { code: 3, at: SystemTime::now() };
        let life = Life::new();
        let (waited, ()) = tokio::join!(life.exited(), async {
            tokio::task::yield_now().await;
            life.set(Phase::Stopped(exit));
            life.set(Phase::Gone(Some(exit)));
        });
        assert_eq!(waited, Some(exit));
    }
}
