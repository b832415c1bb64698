//! The interface of vmrt.
//!
//! One trait, [`Runtime`], is everything an upper layer may know of a sandbox or a container. It is
//! implemented three times: by the VM backend on the host, by the agent inside the guest on plain
//! Linux, and by clients that forward it over a transport. This crate does nothing by itself: no
//! IO, no executor and no wire types live here.
//!
//! Reading order: the ids, what can go wrong, what a process is, where its streams go, what is
//! asked of a runtime, what it reports, and at last the contract itself.

#![forbid(unsafe_code)]

mod id;

mod error;

mod process;

mod stdio;

mod request;

mod sandbox;

mod stats;

mod event;

mod capabilities;

mod runtime;

pub use capabilities::Capabilities;
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use event::{Event, EventKind, EventStream};
pub use id::{ContainerId, ExecId, Handle, Key, Pid, ProcessRef, SandboxId, Token};
pub use process::{ExitStatus, KillScope, ProcessInfo, ProcessState, Signal, Status, WindowSize};
pub use request::{
    CreateContainer, CreateSandbox, Created, Exec, Json, Mount, RuntimeOptions, Update,
};
pub use runtime::{Deadline, Runtime};
pub use sandbox::{Grouping, SandboxState, SandboxStatus};
pub use stats::{BlockIo, BlockOperation, CpuStats, MemoryStats, PidsStats, Stats};
pub use stdio::{Endpoint, Stdio};
