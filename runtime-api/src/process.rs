//! What a process is and what may be done to it.

use std::time::SystemTime;

use crate::{Error, Pid, Result, Stdio};

/// The state of a process.
///
/// ```text
///              create / exec              start                 exit
///   (unknown) ───────────────► Created ─────────► Running ───────────────► Stopped
///                                 │                │   ▲                      │
///                                 │ kill(9)  pause │   │ resume               │ delete
///                                 │                ▼   │                      ▼
///                                 │               Paused ── kill(9) ──► Stopped  (unknown)
///                                 └──────────────────────────────────►
/// ```
///
/// Only the init of a container is ever `Paused`; its execs are frozen with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It exists and has not run yet.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended; its exit status is kept until it is deleted.
    Stopped,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code, 0 to 255; 128 + signal number when a signal ended the process.
    pub code: u32,
    /// When it ended, by the clock of the host.
    pub at: SystemTime,
}

/// What [`Runtime::state`](crate::Runtime::state) answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessState {
    /// The bundle directory of the container.
    pub bundle: std::path::PathBuf,
    /// The opaque number given to daemons as a process id.
    pub pid: Pid,
    /// The state.
    pub status: Status,
    /// Where its streams go; `ctr attach` opens them again from here.
    pub stdio: Stdio,
    /// How it ended; `Some` exactly when `status` is [`Status::Stopped`].
    pub exit: Option<ExitStatus>,
}

/// One living process of a container, as [`Runtime::pids`](crate::Runtime::pids) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The opaque number of the process; it names nothing on the host.
    pub pid: Pid,
    /// The exec it belongs to, where the runtime knows it.
    pub exec: Option<crate::ExecId>,
}

/// A signal number of Linux/x86-64 (signal(7)): 1 to 64, or 0, which only asks for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(u8);

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// Parses a signal number.
    ///
    /// # Errors
    /// `InvalidArgument` when it is above 64 (`SIGRTMAX`).
    pub fn parse(number: u32) -> Result<Self> {
        u8::try_from(number)
            .ok()
            .filter(|number| *number <= 64)
            .map(Self)
            .ok_or_else(|| Error::invalid_argument(format!("signal {number} is not in 0..=64")))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Whom a signal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillScope {
    /// The named process.
    Process,
    /// Every process of the container.
    All,
}

/// The size of a terminal in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_end_at_sigrtmax() {
        assert_eq!(Signal::parse(0).unwrap().number(), 0);
        assert_eq!(Signal::parse(64).unwrap().number(), 64);
        assert!(Signal::parse(65).is_err());
        assert!(Signal::parse(u32::MAX).is_err());
    }
}
