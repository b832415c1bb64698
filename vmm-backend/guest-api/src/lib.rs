//! The guest-only service between the VM backend and the agent in the guest.
//!
//! The contract is in `proto/guest.proto`. It is a crate of its own because both ends need it and
//! neither may import the other.

/// The version of the protocol; [`ResumeRequest::version`] carries it.
pub const PROTOCOL_VERSION: u32 = 1;

/// The name of the virtio-serial port over which the agent serves (`/sys/class/virtio-ports`).
pub const PORT_NAME: &str = "vmrt.agent";

/// The 9p mount tag of the sandbox's shared directory.
pub const SHARE_TAG: &str = "share";

/// Where the agent mounts the shared directory in the guest.
pub const SHARE_DIRECTORY: &str = "/run/vmrt/share";

/// The cgroup of the guest in which the host gives every container one of its own.
pub const CGROUP_PARENT: &str = "/vmrt";

/// The most data that one [`ReadOutputResponse`] or [`WriteInputRequest`] carries, in bytes.
pub const MAX_CHUNK: usize = 1 << 20;

mod generated {
    #![allow(warnings, clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/guest/mod.rs"));
}

pub use generated::guest::*;
pub use generated::guest_ttrpc::{Guest, GuestClient, create_guest};
