//! The conformance suite's own parts: a real daemon to drive, and the hunt for what is left behind.
//!
//! The cases are in `ctr/`: each drives the real containerd through its real client, on the host's
//! side of the door, and knows nothing of what is behind it. `bench/` measures through the same door.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test harness fails loudly")]

mod bundle;
pub use bundle::{Bundle, process};

mod daemon;
pub use daemon::{Ctr, Daemon, IMAGE, Listener, Outcome, RUNTIME, part};

mod leaks;
pub use leaks::{Leaks, eventually, left_of};

mod process;
pub use process::{HostProcess, processes};
