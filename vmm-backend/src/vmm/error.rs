//! The one error type of this module: a variant for each cause that its user can act on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{ExitReason, Mebibytes};

/// Why a virtual machine could not be booted or controlled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The hypervisor's program is not there.
    #[error("{program} is not installed: tried {tried}")]
    NotInstalled {
        /// Name of the program.
        program: String,
        /// The path or the search path that was tried.
        tried: String,
    },
    /// The program is there but is of no use.
    #[error("{}: {detail}", program.display())]
    Unsupported {
        /// Path of the program.
        program: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// What a guest is made from cannot be read.
    #[error("cannot read the guest's {role} {}", path.display())]
    GuestFile {
        /// "hypervisor", "kernel" or "initramfs".
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The hypervisor does not accept the kernel.
    #[error("the guest's kernel {} is corrupt or no ELF kernel with a PVH entry: {detail}", path.display())]
    GuestImage {
        /// The kernel's path.
        path: PathBuf,
        /// The hypervisor's own words.
        detail: String,
    },
    /// The host has not got the memory.
    #[error("the host cannot give the virtual machine {memory} of memory: {detail}")]
    Memory {
        /// What was asked for.
        memory: Mebibytes,
        /// The hypervisor's own words.
        detail: String,
    },
    /// The state directory's path is too long.
    #[error("the socket path {} has {length} bytes, {limit} are possible: use a shorter state directory", path.display())]
    SocketPathTooLong {
        /// The longest socket's path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// What `sun_path` holds.
        limit: usize,
    },
    /// The host refused something that comes before the guest.
    #[error("cannot {attempt} {}", path.display())]
    Host {
        /// What was tried, as a verb.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The machine ended before its agent answered.
    #[error("the virtual machine ended while booting: {reason}: {detail}")]
    DiedDuringBoot {
        /// How.
        reason: ExitReason,
        /// The last line it printed.
        detail: String,
    },
    /// The machine runs but its agent has not opened the channel.
    #[error(
        "the guest's agent did not answer within {deadline:?} of booting; the console ends with: {detail}"
    )]
    BootTimeout {
        /// How long it was given.
        deadline: Duration,
        /// The last line it printed.
        detail: String,
    },
    /// A machine cannot be saved or restored.
    #[error("cannot {attempt} the template: {detail}")]
    Template {
        /// "save" or "restore".
        attempt: &'static str,
        /// The hypervisor's own words.
        detail: String,
    },
    /// The agent's channel cannot be opened.
    #[error("cannot connect to the agent's channel {}", path.display())]
    Channel {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A command to the hypervisor failed.
    #[error("the VMM did not execute {command}: {detail}")]
    Control {
        /// The command.
        command: &'static str,
        /// The hypervisor's answer, or what kept it from answering.
        detail: String,
    },
    /// SIGKILL had no effect in time.
    #[error("the VMM, process {pid}, is still there {waited:?} after SIGKILL")]
    Unkillable {
        /// The process.
        pid: u32,
        /// How long it was given.
        waited: Duration,
    },
}
