//! What a sandbox leaves on disk for whoever cleans up after a crash.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::layout::SandboxDirectory;

/// The version of the file; another one is not read.
const VERSION: u32 = 1;
/// How long a killed process may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

/// The contents of `record.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The process that owns the machine, when the machine dies with it.
    pub(crate) owner: Option<Identity>,
}

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    owner: Option<Identity>,
}

impl Record {
    pub(crate) fn write(&self, directory: &SandboxDirectory) -> Result<()> {
        let form = Form { version: VERSION, owner: self.owner };
        let text = serde_json::to_vec(&form).internal(|| "encode a record")?;
        let path = directory.record();
        fs::write(&path, text).internal(|| format!("write {}", path.display()))
    }

    /// Reads the record; `None` when the sandbox was never begun.
    pub(crate) fn read(directory: &SandboxDirectory) -> Result<Option<Self>> {
        let path = directory.record();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.internal(|| format!("read {}", path.display()))?,
        };
        let form: Form = serde_json::from_slice(&text)
            .kind(ErrorKind::Internal, || format!("{} is no record", path.display()))?;
        if form.version != VERSION {
            let message = format!("{} has the version {}", path.display(), form.version);
            return Err(Error::internal(message));
        }
        Ok(Some(Self { owner: form.owner }))
    }
}

/// A process of the host, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pid: u32,
    /// Clock ticks after boot (proc(5), stat field 22).
    start_time: u64,
}

impl Identity {
    pub(crate) fn of_self() -> Result<Self> {
        let pid = std::process::id();
        let start_time = start_time(pid)
            .ok_or_else(|| Error::internal("read the start time in /proc/self/stat"))?;
        Ok(Self { pid, start_time })
    }

    pub(crate) fn alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Kills the process and waits until it has gone.
    ///
    /// # Errors
    /// `Internal` when it does not go within 3 s.
    pub(crate) fn kill(self) -> Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        while self.alive() {
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

/// When a process started; `None` when it is gone or only waits to be reaped.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, blanks too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::SandboxId;

    #[test]
    fn a_record_survives_the_disk_in_its_frozen_form() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = SandboxDirectory::of(state_dir.path(), &SandboxId::parse("s").unwrap());
        assert_eq!(Record::read(&directory).unwrap(), None);
        directory.create().unwrap();
        let record = Record { owner: Some(Identity { pid: 7, start_time: 8 }) };
        record.write(&directory).unwrap();
        let frozen = r#"{"version":1,"owner":{"pid":7,"start_time":8}}"#;
        assert_eq!(fs::read_to_string(directory.record()).unwrap(), frozen);
        assert_eq!(Record::read(&directory).unwrap(), Some(record));
        fs::write(directory.record(), r#"{"version":2,"owner":null}"#).unwrap();
        assert!(Record::read(&directory).is_err());
    }

    #[test]
    fn a_process_is_killed_once_and_its_number_is_not_enough() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start_time = start_time(child.id()).unwrap();
        let other = Identity { pid: child.id(), start_time: start_time + 1 };
        assert!(!other.alive());
        other.kill().unwrap();
        let identity = Identity { pid: child.id(), start_time };
        assert!(identity.alive());
        identity.kill().unwrap();
        assert!(!identity.alive());
        child.wait().unwrap();
    }
}
