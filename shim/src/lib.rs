//! The wire door: the shim-v2 contract of containerd over any [`Runtime`](runtime_api::Runtime).
//!
//! One program plays several parts, told apart by its arguments (containerd
//! `core/runtime/v2/README.md`): `start` binds a socket and leaves a server behind, the server
//! answers Task, `delete` cleans up from outside. What they have in common is where things are.

mod backend;
pub use backend::{Abandoned, Backend};

mod run;
pub use run::run;

mod flags;

mod bootstrap;

mod bundle;

mod daemon;

mod socket;

mod state;

mod start;

mod server;

mod connections;

mod publisher;

mod delete;

mod info;

mod logging;

#[cfg(test)]
mod testing;
