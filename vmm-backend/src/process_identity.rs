//! A process of the host, told apart from a later one with the same number.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_api::{Error, Result};
use serde::{Deserialize, Serialize};

/// How long a killed process may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

/// A process: its number, and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number.
    pub(crate) pid: u32,
    /// Clock ticks after boot (proc(5), stat field 22).
    pub(crate) start_time: u64,
}

impl ProcessIdentity {
    /// That of this process.
    pub(crate) fn of_self() -> Result<Self> {
        let own = Self::of(std::process::id());
        own.ok_or_else(|| Error::internal("read the start time in /proc/self/stat"))
    }

    /// That of a living process; `None` when it is gone or only waits to be reaped.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = Path::new("/proc").join(pid.to_string()).join("stat");
        let stat = std::fs::read_to_string(stat).ok()?;
        // The second field is the name in parentheses and may hold anything, blanks too.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        Some(Self { pid, start_time: fields.nth(18)?.parse().ok()? })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills the process and waits until it has gone.
    ///
    /// # Errors
    /// `Internal` when it does not go within 3 s.
    pub(crate) fn kill(self) -> Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        while self.is_alive() {
            if Instant::now() > deadline {
                return Err(Error::internal(format!("process {} survives SIGKILL", self.pid)));
            }
            // It fails when the process has just gone, which the next look shows.
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_killed_once_and_its_number_is_not_enough() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let other = ProcessIdentity { start_time: identity.start_time + 1, ..identity };
        assert!(!other.is_alive());
        other.kill().unwrap();
        assert!(identity.is_alive());
        identity.kill().unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }
}
