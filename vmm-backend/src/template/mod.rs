//! The templates of this host: machines that have booted once and of which sandboxes are clones.
//!
//! ```text
//! <directory>/              mode 0700
//!     <key>.lock            held shared while a clone starts, alone by who builds or removes
//!     <key>.new/            being built; whoever holds the lock alone may remove it
//!     <key>.failed          why a template could not be built or restored
//!     <key>/                memory, state, manifest.json; complete, and never changed
//! ```
//!
//! The key is a hash of everything that the template depends on, so that there is never one to
//! update. A process that dies in the middle leaves an unlocked `.new`, which the next one removes.
//! All shims and libraries of a host use the same directory.

mod build;
mod cache;
mod manifest;

pub use cache::{Checked, Templates};
