//! What a runtime announces.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::SystemTime;

use futures_core::Stream;

use crate::{ContainerId, ExecId, ExitStatus, Mount, Pid, SandboxId, Stdio};

/// The events of a runtime, in order; it ends when the runtime closes.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Something that has happened to a container.
///
/// Order, for one container: `Create` → `Start` → `Exit` → `Delete`; for one exec: `ExecAdded` →
/// `ExecStarted` → `Exit`; the exits of all execs come before the exit of the init. A state is
/// latched before its event is sent: whoever has seen an event finds the state it tells of.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The container.
    pub container: ContainerId,
    /// When it happened, by the clock of the host.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
}

/// What happened (containerd `api/events/task.proto`).
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The container was created.
    Create {
        /// Its bundle.
        bundle: PathBuf,
        /// Its root filesystem.
        rootfs: Vec<Mount>,
        /// Its streams.
        stdio: Stdio,
        /// The opaque number given to daemons as a process id.
        pid: Pid,
    },
    /// The init process was started.
    Start {
        /// The opaque number given to daemons as a process id.
        pid: Pid,
    },
    /// The kernel of the guest killed a process of the container for want of memory.
    Oom,
    /// A process has ended.
    Exit {
        /// The exec; `None` for the init process.
        exec: Option<ExecId>,
        /// The opaque number given to daemons as a process id.
        pid: Pid,
        /// How it ended.
        exit: ExitStatus,
    },
    /// The container was deleted.
    Delete {
        /// The opaque number given to daemons as a process id.
        pid: Pid,
        /// How its init had ended.
        exit: ExitStatus,
    },
    /// An exec was added.
    ExecAdded {
        /// The exec.
        exec: ExecId,
    },
    /// An exec was started.
    ExecStarted {
        /// The exec.
        exec: ExecId,
        /// The opaque number given to daemons as a process id.
        pid: Pid,
    },
    /// The container was frozen.
    Paused,
    /// The container was thawed.
    Resumed,
}
