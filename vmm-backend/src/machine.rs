//! The virtual machine of a sandbox together with its agent.

use std::path::Path;
use std::sync::Arc;

use runtime_api::{Error, ErrorKind, Pid, Result, SandboxId};

use crate::config::Config;
use crate::guest::{Guest, GuestIdentity};
use crate::layout::SandboxDirectory;
use crate::vmm::qemu::{Probe, Qemu};
use crate::vmm::{GuestImage, Lifetime, NetworkNamespace, Vm, VmExit, VmSpec, Vmm, VmmError};

/// What a sandbox's machine is made from.
pub(crate) struct MachineSpec<'a> {
    pub(crate) sandbox: &'a SandboxId,
    pub(crate) hostname: &'a str,
    pub(crate) directory: &'a SandboxDirectory,
    pub(crate) config: &'a Config,
    pub(crate) lifetime: Lifetime,
    pub(crate) network: &'a NetworkNamespace,
    /// Where the verdict about KVM is kept.
    pub(crate) accelerator_cache: &'a Path,
}

/// A running machine whose guest has its identity.
pub(crate) struct Machine {
    sandbox: SandboxId,
    vm: Box<dyn Vm>,
    guest: Arc<Guest>,
}

impl Machine {
    /// Boots it. Dropping the future leaves nothing behind.
    pub(crate) async fn boot(spec: MachineSpec<'_>) -> Result<Self> {
        let config = spec.config;
        let qemu = Qemu::find(config.qemu.as_deref())?;
        let guest = GuestImage::in_directory(&config.guest_image);
        let probe = Probe {
            cache: spec.accelerator_cache.to_owned(),
            guest: guest.clone(),
            lifetime: spec.lifetime,
        };
        let vm_spec = VmSpec {
            directory: spec.directory.path().to_owned(),
            share: spec.directory.share(),
            guest,
            vcpus: config.vcpus,
            memory: config.memory(),
            accelerator: qemu.accelerator(config.accelerator, &probe).await,
            lifetime: spec.lifetime,
            network: spec.network.clone(),
            command_line: config.kernel_parameters.clone(),
            boot_deadline: config.boot_deadline(),
        };
        let vm = qemu.boot(&vm_spec).await?;
        let identity = GuestIdentity { sandbox: spec.sandbox, hostname: spec.hostname };
        match Guest::resume(vm.as_ref(), identity, config.request_deadline()).await {
            Ok(guest) => Ok(Self { sandbox: spec.sandbox.clone(), vm, guest: Arc::new(guest) }),
            Err(error) => {
                vm.kill().await?;
                Err(error)
            }
        }
    }

    /// The number that daemons are told: the VMM's process, which lives as long as the machine.
    pub(crate) fn pid(&self) -> Pid {
        Pid(self.vm.pid())
    }

    pub(crate) fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }

    /// Waits for the end of the machine.
    pub(crate) async fn exited(&self) -> VmExit {
        self.vm.exited().await
    }

    /// Ends the machine.
    pub(crate) async fn kill(&self) -> Result<()> {
        Ok(self.vm.kill().await?)
    }

    /// The guest does not answer as it must, so nothing is known of it any more: ends the machine.
    pub(crate) async fn lost(&self, error: &Error) {
        log::warn!("guest of sandbox {} is lost: {}", self.sandbox, error.chain());
        if let Err(error) = self.kill().await {
            log::error!("sandbox {}: {}", self.sandbox, error.chain());
        }
    }
}

impl From<VmmError> for Error {
    fn from(error: VmmError) -> Self {
        let kind = match error {
            VmmError::NotInstalled { .. }
            | VmmError::Unsupported { .. }
            | VmmError::GuestFile { .. }
            | VmmError::GuestImage { .. }
            | VmmError::Memory { .. }
            | VmmError::SocketPathTooLong { .. } => ErrorKind::FailedPrecondition,
            VmmError::BootTimeout { .. } => ErrorKind::DeadlineExceeded,
            VmmError::DiedDuringBoot { .. }
            | VmmError::Channel { .. }
            | VmmError::Control { .. }
            | VmmError::Unkillable { .. } => ErrorKind::Unavailable,
            VmmError::Host { .. } => ErrorKind::Internal,
        };
        Self::new(kind, "the virtual machine").with_source(error)
    }
}
