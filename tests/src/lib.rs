//! The conformance suite's own parts: a real daemon to drive, and the hunt for what is left behind.
//!
//! The cases are in `ctr/`, which drives the real containerd through its real client, in `library/`,
//! which loads the library as daemons do, and in `conformance/`, which knows only the trait. `bench/`
//! measures.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test harness fails loudly")]

mod bundle;
pub use bundle::{Bundle, process};

mod data;
pub use data::{noise, text_of};

mod daemon;
pub use daemon::{Ctr, Daemon, IMAGE, Listener, Outcome, RUNTIME, part};

mod leaks;
pub use leaks::{Leaks, eventually, left_of, unmount_below};

mod process;
pub use process::{HostProcess, processes};
