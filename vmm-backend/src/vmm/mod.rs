//! The seam between the runtime and a hypervisor.
//!
//! A [`Vmm`] is a driver: it turns a [`VmSpec`] into a running [`Vm`]. Nothing outside this module
//! knows which hypervisor runs a sandbox; what one can and another cannot is data
//! ([`VmmCapabilities`]).
//!
//! ```text
//!            boot(spec)                        connect()
//!  VmSpec ───────────────► Vm, agent's side ─────────────► UnixStream to the agent
//!     │   error: nothing    of the channel is open
//!     │   is left behind     │        │
//!     │                pause │▲resume │ kill(), guest ends, VMM dies
//!     │                      ▼│       ▼
//!     │                     paused ─► VmExit (latched: every waiter sees the same one)
//! ```
//!
//! ```text
//!            save_template(spec)                 restore(spec of a sandbox)
//!  VmSpec ────────────────────────► TemplateFiles ─────────────────────────► Vm, as after boot
//! ```
//!
//! Everything that belongs to one sandbox is named by a path in its [`VmSpec`] and no device
//! depends on the sandbox, so that a clone of a saved template is given the same devices and other
//! paths.

mod error;
pub mod qemu;
mod types;

use std::fs::File;

use async_trait::async_trait;
use tokio::net::UnixStream;

pub use crate::file_identity::FileIdentity;
pub use crate::process_identity::ProcessIdentity;
pub use error::VmmError;
pub use types::{
    Accelerator, AgentChannel, ExitReason, Fingerprint, GuestImage, LeftMachine, Lifetime,
    Mebibytes, NetworkNamespace, SharedFs, TemplateFiles, VmExit, VmSpec, VmmCapabilities,
};

/// A hypervisor driver.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// The driver's name as it stands in configuration and logs.
    fn name(&self) -> &'static str;

    /// What this driver can do now.
    fn capabilities(&self) -> &VmmCapabilities;

    /// Boots a virtual machine and returns once the agent has opened its side of the channel.
    ///
    /// Dropping the future, like an error, leaves neither a process nor a file of this module
    /// behind; the sandbox's directory itself belongs to the caller.
    ///
    /// # Errors
    /// One variant of [`VmmError`] for each cause a user can act on; [`VmmError::BootTimeout`]
    /// after [`VmSpec::boot_deadline`].
    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn Vm>, VmmError>;

    /// What a template for `spec` depends on. It has nothing of the one sandbox in it: neither its
    /// directories nor its network.
    ///
    /// # Errors
    /// [`VmmError::GuestFile`] and [`VmmError::NotInstalled`] for what cannot be read.
    fn fingerprint(&self, spec: &VmSpec) -> Result<Fingerprint, VmmError>;

    /// Boots a machine up to the agent's opening of its channel, saves it, and ends it. Of `spec`
    /// the directories are those of this one machine. The files are complete when this returns, and
    /// worth nothing before that or after an error.
    ///
    /// # Errors
    /// As for [`Vmm::boot`]; [`VmmError::Template`] when the saving fails.
    async fn save_template(&self, spec: &VmSpec, files: &TemplateFiles) -> Result<(), VmmError>;

    /// Starts a machine that goes on where the template was saved, with the devices and the memory
    /// of its own that `spec` asks for. Its agent listens, and takes itself for unconnected.
    ///
    /// # Errors
    /// As for [`Vmm::boot`]; [`VmmError::Template`] when the files cannot be restored.
    async fn restore(&self, spec: &VmSpec, files: &TemplateFiles) -> Result<Box<dyn Vm>, VmmError>;

    /// Takes control of a machine whose owner has gone ([`Lifetime::Survives`]); `None` when the
    /// machine has gone too.
    ///
    /// # Errors
    /// [`VmmError::Channel`] when it does not let itself be controlled.
    async fn attach(&self, left: &LeftMachine) -> Result<Option<Box<dyn Vm>>, VmmError>;
}

/// A running virtual machine.
///
/// Dropping it ends the machine, until [`Vm::keep`] has been called: then it detaches from it.
#[async_trait]
pub trait Vm: Send + Sync {
    /// The host's process id of the VMM: alive exactly as long as the machine.
    fn pid(&self) -> u32;

    /// Lets the machine live on when this is dropped: word of it has been left for whoever comes next.
    /// Only one that was started with [`Lifetime::Survives`] outlives its owner's process as well.
    fn keep(&self);

    /// Keeps a file open in the VMM, under a name, so that a pipe outlives the owner of the machine
    /// with all that is in it.
    ///
    /// # Errors
    /// As for [`Vm::pause`].
    async fn hold(&self, name: &str, file: File) -> Result<(), VmmError>;

    /// Closes what [`Vm::hold`] has kept open.
    ///
    /// # Errors
    /// As for [`Vm::pause`].
    async fn let_go(&self, name: &str) -> Result<(), VmmError>;

    /// Opens the channel to the agent; it carries one connection at a time.
    ///
    /// # Errors
    /// [`VmmError::Channel`] if the VMM does not accept.
    async fn connect(&self) -> Result<UnixStream, VmmError>;

    /// Stops all virtual CPUs. Pausing a paused machine is no error.
    ///
    /// # Errors
    /// [`VmmError::Control`] if the VMM refuses, is gone or does not answer in time.
    async fn pause(&self) -> Result<(), VmmError>;

    /// Lets the virtual CPUs run. Resuming a running machine is no error.
    ///
    /// # Errors
    /// As for [`Vm::pause`].
    async fn resume(&self) -> Result<(), VmmError>;

    /// Waits until the machine has ended, for any number of waiters, and tells why.
    async fn exited(&self) -> VmExit;

    /// Ends the VMM with SIGKILL and reaps it. A second call, or one after the exit, succeeds at
    /// once.
    ///
    /// # Errors
    /// [`VmmError::Unkillable`] if the process is still there after some seconds, as one in
    /// uninterruptible sleep would be.
    async fn kill(&self) -> Result<(), VmmError>;
}
