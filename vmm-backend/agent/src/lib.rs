//! PID 1 of the guest: the [`Runtime`](runtime_api::Runtime) trait on plain Linux.
//!
//! One process, one thread. What blocks or forks happens in a short-lived child of its own, the
//! helper, so that nothing one container does delays another. Reading order: how the guest comes
//! up, how the host reaches it, the guest-only service, then the runtime and what it is made of.

pub mod boot;

mod identity;

pub mod port;

mod gate;

mod connections;

pub mod guest;

pub mod serve;

mod runtime;
pub use runtime::{LinuxRuntime, Options};

mod containers;

mod container;

mod process;

mod streams;

mod reaper;

mod oom;

mod cgroup;

mod launcher;

mod spares;

pub mod helper;

mod sys;
