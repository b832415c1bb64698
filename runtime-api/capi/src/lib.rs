//! The C table of vmrt (`include/vmrt.h`), from both sides.
//!
//! ```text
//!   daemon ── dlopen, vmrt_get_api ──► table ──► Instance ──► TaskServer ──► dyn Runtime
//!   (C, Go: vmrt.h; Rust: load)         (export)                             (the library's)
//! ```
//!
//! What crosses it are Task messages, so that `runtime-task` is the only mapping here too.

mod abi;
pub use abi::Api;

pub mod export;

pub mod load;

pub mod select;
