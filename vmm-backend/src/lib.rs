//! The runtime on the host: one virtual machine for each sandbox.
//!
//! [`VmRuntime`] implements [`Runtime`](runtime_api::Runtime). Reading order: what it is opened with,
//! what a process goes through, what a container and a sandbox are made of, how the guest and the
//! hypervisor are spoken to, and what the host keeps for them.

mod runtime;
pub use runtime::{Host, VmRuntime};

mod registry;

mod config;
pub use config::{CONFIG_PATH, CONFIG_VARIABLE, Config};

mod phase;

mod process;

mod container;

mod sandbox;

mod machine;
pub use machine::warm;

mod watchdog;

mod template;
pub use template::{Checked, Templates};

mod guest;

mod streams;

mod bundle;

mod layout;

mod mount;

mod record;

mod process_identity;

mod host_cgroup;

mod attach;

mod durable;

mod journal;

mod token;

mod dial;

mod events;

mod figures;

mod phases;

mod file_identity;

mod child;
mod devices;
mod hooks;
mod lock;
mod logger;
mod update;

mod cleanup;
pub use cleanup::{Leftover, cleanup};

pub mod vmm;
