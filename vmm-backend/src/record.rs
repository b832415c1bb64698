//! What a sandbox leaves on disk: for whoever cleans up after a crash, and for the next run of a
//! daemon whose machines live on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_api::{
    ContainerId, Endpoint, Error, ErrorKind, ExecId, ProcessRef, Result, ResultExt, Stdio,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process_identity::ProcessIdentity;

/// The version of all records; another one is not read.
const VERSION: u32 = 2;

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The process that owns the machine, when the machine dies with it.
    pub(crate) owner: Option<ProcessIdentity>,
    /// The control group that was made for the VMM.
    pub(crate) cgroup: Option<PathBuf>,
    /// The machine, once it is ready, when it lives on.
    pub(crate) machine: Option<MachineRecord>,
}

/// A machine that can be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineRecord {
    pub(crate) vmm: ProcessIdentity,
    pub(crate) hostname: String,
    pub(crate) machine_id: [u8; 16],
    /// Whether the sandbox lives only as long as it has containers.
    pub(crate) implicit: bool,
    pub(crate) created_at: SystemTime,
    /// How long the guest may take for a request.
    pub(crate) deadline: Duration,
    /// How long it may be silent.
    pub(crate) heartbeat: Duration,
}

/// A process of a container, from before its creation in the guest until it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRecord {
    pub(crate) process: ProcessRef,
    /// Whether its creation has been completed: before that no daemon can know of it.
    pub(crate) created: bool,
    pub(crate) bundle: PathBuf,
    pub(crate) stdio: Stdio,
}

impl Record {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write(path, &SandboxForm::from(self))
    }

    /// Reads the record; `None` when the sandbox was never begun.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        Ok(read::<SandboxForm>(path)?.map(Self::from))
    }
}

impl ProcessRecord {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write(path, &ProcessForm::from(self))
    }

    /// Reads the record; `None` when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        read::<ProcessForm>(path)?.map(Self::try_from).transpose()
    }

    /// Reads all records in a directory, in the order in which they were written.
    pub(crate) fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let reading = || format!("read {}", directory.display());
        let mut records = Vec::new();
        for entry in fs::read_dir(directory).internal(reading)? {
            let path = entry.internal(reading)?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(record) = Self::read(&path)?
            {
                let written = fs::metadata(&path).and_then(|found| found.modified());
                records.push((written.internal(reading)?, record));
            }
        }
        records.sort_by_key(|(written, _)| *written);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }
}

#[derive(Serialize, Deserialize)]
struct SandboxForm {
    version: u32,
    owner: Option<ProcessIdentity>,
    cgroup: Option<PathBuf>,
    machine: Option<MachineForm>,
}

#[derive(Serialize, Deserialize)]
struct MachineForm {
    vmm: ProcessIdentity,
    hostname: String,
    machine_id: [u8; 16],
    implicit: bool,
    /// Milliseconds since 1970.
    created_at: u64,
    /// Milliseconds.
    deadline: u64,
    /// Milliseconds.
    heartbeat: u64,
}

#[derive(Serialize, Deserialize)]
struct ProcessForm {
    version: u32,
    container: String,
    exec: Option<String>,
    created: bool,
    bundle: PathBuf,
    stdin: String,
    stdout: String,
    stderr: String,
    terminal: bool,
}

trait Form: Serialize + DeserializeOwned {
    fn version(&self) -> u32;
}

impl Form for SandboxForm {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Form for ProcessForm {
    fn version(&self) -> u32 {
        self.version
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Record> for SandboxForm {
    fn from(record: &Record) -> Self {
        let machine = record.machine.as_ref().map(|machine| MachineForm {
            vmm: machine.vmm,
            hostname: machine.hostname.clone(),
            machine_id: machine.machine_id,
            implicit: machine.implicit,
            created_at: milliseconds(
                machine.created_at.duration_since(UNIX_EPOCH).unwrap_or_default(),
            ),
            deadline: milliseconds(machine.deadline),
            heartbeat: milliseconds(machine.heartbeat),
        });
        Self { version: VERSION, owner: record.owner, cgroup: record.cgroup.clone(), machine }
    }
}

impl From<SandboxForm> for Record {
    fn from(form: SandboxForm) -> Self {
        let machine = form.machine.map(|machine| MachineRecord {
            vmm: machine.vmm,
            hostname: machine.hostname,
            machine_id: machine.machine_id,
            implicit: machine.implicit,
            created_at: UNIX_EPOCH + Duration::from_millis(machine.created_at),
            deadline: Duration::from_millis(machine.deadline),
            heartbeat: Duration::from_millis(machine.heartbeat),
        });
        Self { owner: form.owner, cgroup: form.cgroup, machine }
    }
}

impl From<&ProcessRecord> for ProcessForm {
    fn from(record: &ProcessRecord) -> Self {
        Self {
            version: VERSION,
            container: record.process.container.to_string(),
            exec: record.process.exec.as_ref().map(ToString::to_string),
            created: record.created,
            bundle: record.bundle.clone(),
            stdin: record.stdio.stdin.to_string(),
            stdout: record.stdio.stdout.to_string(),
            stderr: record.stdio.stderr.to_string(),
            terminal: record.stdio.terminal,
        }
    }
}

impl TryFrom<ProcessForm> for ProcessRecord {
    type Error = Error;

    fn try_from(form: ProcessForm) -> Result<Self> {
        Ok(Self {
            process: ProcessRef {
                container: ContainerId::parse(form.container)?,
                exec: form.exec.map(ExecId::parse).transpose()?,
                key: None,
            },
            created: form.created,
            bundle: form.bundle,
            stdio: Stdio {
                stdin: Endpoint::parse(&form.stdin)?,
                stdout: Endpoint::parse(&form.stdout)?,
                stderr: Endpoint::parse(&form.stderr)?,
                terminal: form.terminal,
            },
        })
    }
}

/// Writes a record that is there whole or not at all, also when this process is killed meanwhile.
fn write(path: &Path, form: &impl Form) -> Result<()> {
    let writing = || format!("write {}", path.display());
    let text = serde_json::to_vec(form).internal(writing)?;
    let partial = path.with_extension("partial");
    fs::write(&partial, text).and_then(|()| fs::rename(&partial, path)).internal(writing)
}

fn read<F: Form>(path: &Path) -> Result<Option<F>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.internal(|| format!("read {}", path.display()))?,
    };
    let form: F = serde_json::from_slice(&text)
        .kind(ErrorKind::Internal, || format!("{} is no record", path.display()))?;
    match form.version() {
        VERSION => Ok(Some(form)),
        version => {
            let message = format!("{} has the version {version}", path.display());
            Err(Error::internal(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMM: ProcessIdentity = ProcessIdentity { pid: 7, start_time: 8 };

    #[test]
    fn a_sandbox_survives_the_disk_in_its_frozen_form() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        let machine = MachineRecord {
            vmm: VMM,
            hostname: "h".into(),
            machine_id: [1; 16],
            implicit: true,
            created_at: UNIX_EPOCH + Duration::from_secs(9),
            deadline: Duration::from_secs(30),
            heartbeat: Duration::from_secs(20),
        };
        let record = Record { owner: None, cgroup: Some("/g".into()), machine: Some(machine) };
        record.write(&path).unwrap();
        let frozen = concat!(
            r#"{"version":2,"owner":null,"cgroup":"/g","machine":{"vmm":{"pid":7,"start_time":8},"#,
            r#""hostname":"h","machine_id":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"implicit":true,"#,
            r#""created_at":9000,"deadline":30000,"heartbeat":20000}}"#
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), frozen);
        assert_eq!(Record::read(&path).unwrap(), Some(record));
        fs::write(&path, r#"{"version":1,"owner":null}"#).unwrap();
        assert!(Record::read(&path).is_err());
    }

    #[test]
    fn a_process_survives_the_disk_in_its_frozen_form() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c@e.json");
        let container = ContainerId::parse("c").unwrap();
        let stdout = Endpoint::Fifo("/f".into());
        let record = ProcessRecord {
            process: ProcessRef::exec(container, ExecId::parse("e").unwrap()),
            created: true,
            bundle: "/b".into(),
            stdio: Stdio { stdout, terminal: true, ..Stdio::default() },
        };
        record.write(&path).unwrap();
        let frozen = concat!(
            r#"{"version":2,"container":"c","exec":"e","created":true,"bundle":"/b","stdin":"","#,
            r#""stdout":"/f","stderr":"","terminal":true}"#
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), frozen);
        assert_eq!(ProcessRecord::read(&path).unwrap(), Some(record));
    }
}
