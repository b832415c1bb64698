//! What goes into a virtual machine and what comes out of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::file_identity::FileIdentity;
use crate::process_identity::ProcessIdentity;

/// Everything a driver needs in order to boot one sandbox.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// State directory of the sandbox: it exists, has mode 0700 and is this machine's alone.
    /// Sockets live in it, so its path has to be short enough for `sun_path` (107 bytes with the
    /// socket's name).
    pub directory: PathBuf,
    /// The one directory that the guest sees; later bind mounts below it appear in the guest.
    pub share: PathBuf,
    /// What the guest runs.
    pub guest: GuestImage,
    /// Number of virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Guest memory.
    pub memory: Mebibytes,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// What the death of this process means for the machine.
    pub lifetime: Lifetime,
    /// Where the VMM is on the network.
    pub network: NetworkNamespace,
    /// Words appended to the kernel command line, in order.
    pub command_line: Vec<String>,
    /// From the start of the VMM to the agent's opening of its channel.
    pub boot_deadline: Duration,
}

/// Kernel and initramfs of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    /// An uncompressed ELF kernel with a PVH entry note.
    pub kernel: PathBuf,
    /// An initramfs whose `/init` is the agent.
    pub initramfs: PathBuf,
}

impl GuestImage {
    /// The image in a directory as the build script lays it out.
    pub fn in_directory(directory: &Path) -> Self {
        Self { kernel: directory.join("vmlinux"), initramfs: directory.join("initramfs.img") }
    }
}

/// The files of a saved machine; only the driver that wrote them reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFiles {
    /// The guest's memory. Clones map it copy-on-write, so it must never change.
    pub memory: PathBuf,
    /// The state of processor and devices.
    pub state: PathBuf,
}

impl TemplateFiles {
    /// The files of the template in a directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self { memory: directory.join("memory"), state: directory.join("state") }
    }
}

/// What a template depends on: it can be restored for every [`VmSpec`] whose fingerprint is equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The files it was made from.
    pub inputs: Vec<FileIdentity>,
    /// Everything else, as text.
    pub settings: String,
}

/// An amount of memory in units of 2^20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mebibytes(pub u32);

impl fmt::Display for Mebibytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} MiB", self.0)
    }
}

/// How a guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor, through /dev/kvm.
    Kvm,
    /// By translation, in user space.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What the death of the process that booted a machine means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The machine dies too, even if its owner is killed with SIGKILL: the owner is a shim. The
    /// kernel ties it to the *thread* that boots, so that thread has to live as long as the process
    /// does.
    DiesWithOwner,
    /// The machine lives on and can be attached to again: the owner is a daemon with the runtime as
    /// a library.
    Survives,
}

/// A machine that an earlier run of this program has left.
#[derive(Clone, Debug)]
pub struct LeftMachine {
    /// The state directory of the sandbox, as in its [`VmSpec`].
    pub directory: PathBuf,
    /// The VMM.
    pub vmm: ProcessIdentity,
}

/// The network namespace of the VMM. It is never the host's by default: daemons take the namespace of
/// the process that they are told of for the sandbox's own, and put interfaces there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// One of its own, which ends with it.
    New,
    /// The one that somebody has prepared, by its path.
    Existing(PathBuf),
}

/// What a driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmmCapabilities {
    /// A machine can be saved and restored.
    pub snapshot: bool,
    /// A restored machine shares its memory with others until it writes to it.
    pub cow_clone: bool,
    /// Devices can be added to a running machine.
    pub hotplug: bool,
    /// How the guest reaches [`VmSpec::share`].
    pub shared_fs: SharedFs,
    /// What the agent's end of the channel is.
    pub channel: AgentChannel,
}

/// How a directory of the host is shared with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedFs {
    /// Not at all: root filesystems have to be block devices.
    None,
    /// 9P over virtio, mount tag `share`.
    NineP,
    /// virtio-fs, mount tag `share`.
    VirtioFs,
}

/// What the agent opens in order to talk to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentChannel {
    /// The virtio-serial port named `vmrt.agent`.
    VirtioSerial,
    /// A vsock listener.
    Vsock,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmExit {
    /// Why.
    pub reason: ExitReason,
    /// The end of what the guest's console and the VMM itself printed: a few kilobytes at most,
    /// written by an untrusted guest, with everything unprintable removed.
    pub output: String,
}

/// Why a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off, or the VMM was asked to quit.
    Shutdown,
    /// The guest's kernel reported a panic.
    GuestPanicked,
    /// The guest reset itself, as a kernel does whose init exits; it is not started again.
    GuestReset,
    /// The VMM was killed by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The VMM gave up by itself.
    Crashed {
        /// Its exit code.
        code: i32,
    },
    /// Somebody else reaped the process, so its status is lost.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => formatter.write_str("the guest shut down"),
            Self::GuestPanicked => formatter.write_str("the guest's kernel panicked"),
            Self::GuestReset => formatter.write_str("the guest reset itself"),
            Self::Killed { signal } => write!(formatter, "the VMM was killed by signal {signal}"),
            Self::Crashed { code } => write!(formatter, "the VMM exited with code {code}"),
            Self::Unknown => formatter.write_str("the VMM is gone, its exit status is unknown"),
        }
    }
}
