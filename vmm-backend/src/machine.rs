//! The virtual machine of a sandbox together with its agent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime_api::{Error, ErrorKind, Pid, Result, SandboxId};

use crate::config::Config;
use crate::guest::{Guest, GuestIdentity};
use crate::host_cgroup::HostCgroup;
use crate::layout::{self, SandboxDirectory};
use crate::phases::Phases;
use crate::record::MachineRecord;
use crate::template::Templates;
use crate::vmm::qemu::{Probe, Qemu};
use crate::vmm::{
    GuestImage, LeftMachine, Lifetime, NetworkNamespace, ProcessIdentity, Vm, VmExit, VmSpec, Vmm,
    VmmError,
};

/// What a sandbox's machine is made from.
pub(crate) struct MachineSpec<'a> {
    pub(crate) identity: &'a GuestIdentity,
    pub(crate) directory: &'a SandboxDirectory,
    pub(crate) config: &'a Config,
    pub(crate) lifetime: Lifetime,
    pub(crate) network: &'a NetworkNamespace,
    /// Where the VMM belongs, when that is not where this process is.
    pub(crate) cgroup: Option<&'a HostCgroup>,
    /// Where the verdict about KVM is kept.
    pub(crate) accelerator_cache: &'a Path,
}

/// A running machine whose guest has its identity.
pub(crate) struct Machine {
    sandbox: SandboxId,
    vm: Box<dyn Vm>,
    /// Kept also after its end, to tell it from others.
    vmm: Option<ProcessIdentity>,
    guest: Arc<Guest>,
    phases: Phases,
}

impl Machine {
    /// Starts it: as a clone of a template, or else by booting. Dropping the future leaves nothing
    /// behind.
    pub(crate) async fn start(spec: MachineSpec<'_>) -> Result<Self> {
        let mut phases = Phases::begin();
        let qemu = Qemu::find(spec.config.qemu.as_deref())?;
        let host = HostFacts { accelerator_cache: spec.accelerator_cache, lifetime: spec.lifetime };
        let vm_spec = VmSpec {
            network: spec.network.clone(),
            ..vm_spec(&qemu, spec.config, spec.directory.path(), host).await
        };
        phases.end("accelerator");
        if spec.config.templates
            && let Some(machine) = Self::clone_template(&spec, &qemu, &vm_spec, &mut phases).await?
        {
            return Ok(machine);
        }
        let vm = qemu.boot(&vm_spec).await?;
        phases.end("boot");
        Self::resume(&spec, vm, phases).await
    }

    /// `None` when there is no template to clone, or none that lives; the reason is logged.
    async fn clone_template(
        spec: &MachineSpec<'_>,
        qemu: &Qemu,
        vm_spec: &VmSpec,
        phases: &mut Phases,
    ) -> Result<Option<Self>> {
        let boots = |error: &Error| {
            let reason = error.chain();
            log::warn!("sandbox {} boots instead of being cloned: {reason}", spec.identity.sandbox);
        };
        let templates = Templates::in_directory(spec.config.template_dir.clone());
        let template = match templates.obtain(qemu, vm_spec).await {
            Ok(template) => template,
            Err(error) => {
                boots(&error);
                return Ok(None);
            }
        };
        phases.end("template");
        let machine = match qemu.restore(vm_spec, &template.files()).await {
            Ok(vm) => {
                phases.end("restore");
                Self::resume(spec, vm, phases.clone()).await
            }
            Err(error @ VmmError::Template { .. }) => Err(error.into()),
            // Whatever it is, it has nothing to do with the template, and a boot would meet it too.
            Err(error) => return Err(error.into()),
        };
        match machine {
            Ok(machine) => Ok(Some(machine)),
            Err(error) => {
                boots(&error);
                template.put_aside(&error);
                phases.end("failed_clone");
                Ok(None)
            }
        }
    }

    /// Gives the guest its identity.
    async fn resume(spec: &MachineSpec<'_>, vm: Box<dyn Vm>, mut phases: Phases) -> Result<Self> {
        if let Some(cgroup) = spec.cgroup {
            cgroup.admit(vm.pid());
        }
        match Guest::resume(vm.as_ref(), spec.identity, spec.config.request_deadline()).await {
            Ok(guest) => {
                phases.end("resume");
                let sandbox = spec.identity.sandbox.clone();
                let guest = Arc::new(guest);
                let vmm = ProcessIdentity::of(vm.pid());
                Ok(Self { sandbox, vm, vmm, guest, phases })
            }
            Err(error) => {
                vm.kill().await?;
                Err(error)
            }
        }
    }

    /// Takes over the machine that an earlier run has left in `directory`; `None` when it has gone.
    pub(crate) async fn attach(
        sandbox: &SandboxId,
        directory: &SandboxDirectory,
        record: &MachineRecord,
        config: &Config,
    ) -> Result<Option<Self>> {
        let mut phases = Phases::begin();
        let qemu = Qemu::find(config.qemu.as_deref())?;
        let left = LeftMachine { directory: directory.path().to_owned(), vmm: record.vmm };
        let Some(vm) = qemu.attach(&left).await? else { return Ok(None) };
        phases.end("attach");
        let identity = GuestIdentity {
            sandbox: sandbox.clone(),
            hostname: record.hostname.clone(),
            machine_id: record.machine_id,
        };
        let guest = Guest::come_back(vm.as_ref(), &identity, record.deadline).await?;
        phases.end("resume");
        let (sandbox, vmm) = (identity.sandbox, Some(record.vmm));
        Ok(Some(Self { sandbox, vm, vmm, guest: Arc::new(guest), phases }))
    }

    /// Lets it live on without this process.
    pub(crate) fn keep(&self) {
        self.vm.keep();
    }

    /// Keeps a file open for as long as it lives.
    pub(crate) async fn hold(&self, name: &str, file: File) -> Result<()> {
        Ok(self.vm.hold(name, file).await?)
    }

    /// Closes such a file.
    pub(crate) async fn let_go(&self, name: &str) -> Result<()> {
        Ok(self.vm.let_go(name).await?)
    }

    /// Where the time of its start went.
    pub(crate) fn phases(&self) -> &Phases {
        &self.phases
    }

    /// The number that daemons are told: the VMM's process, which lives as long as the machine.
    pub(crate) fn pid(&self) -> Pid {
        Pid(self.vm.pid())
    }

    /// The VMM; `None` when it ended at once.
    pub(crate) fn vmm(&self) -> Option<ProcessIdentity> {
        self.vmm
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

/// What is the same for every machine of this process.
struct HostFacts<'a> {
    accelerator_cache: &'a Path,
    lifetime: Lifetime,
}

/// The machine that `config` describes, in `directory`, with a network of its own.
async fn vm_spec(qemu: &Qemu, config: &Config, directory: &Path, host: HostFacts<'_>) -> VmSpec {
    let guest = GuestImage::in_directory(&config.guest_image);
    let probe = Probe {
        cache: host.accelerator_cache.to_owned(),
        guest: guest.clone(),
        lifetime: host.lifetime,
    };
    VmSpec {
        directory: directory.to_owned(),
        share: layout::share(directory),
        guest,
        vcpus: config.vcpus,
        memory: config.memory(),
        accelerator: qemu.accelerator(config.accelerator, &probe).await,
        lifetime: host.lifetime,
        network: NetworkNamespace::New,
        command_line: config.kernel_parameters.clone(),
        boot_deadline: config.boot_deadline(),
    }
}

/// Has the template that `config` asks for, so that the first sandbox need not build it, and answers
/// its directory.
///
/// # Errors
/// What keeps it from being built.
pub async fn warm(config: &Config, accelerator_cache: &Path) -> Result<PathBuf> {
    let qemu = Qemu::find(config.qemu.as_deref())?;
    let host = HostFacts { accelerator_cache, lifetime: Lifetime::DiesWithOwner };
    let spec = vm_spec(&qemu, config, &config.template_dir, host).await;
    let templates = Templates::in_directory(config.template_dir.clone());
    Ok(templates.obtain(&qemu, &spec).await?.directory().to_owned())
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
            | VmmError::Template { .. }
            | VmmError::Channel { .. }
            | VmmError::Control { .. }
            | VmmError::Unkillable { .. } => ErrorKind::Unavailable,
            VmmError::Host { .. } => ErrorKind::Internal,
        };
        Self::new(kind, "the virtual machine").with_source(error)
    }
}
