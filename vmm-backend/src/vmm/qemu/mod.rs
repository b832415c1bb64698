//! The driver for QEMU: a child process for each machine, controlled over QMP.

mod accelerator;
mod arguments;
mod attach;
mod diagnosis;
mod output;
mod process;
mod qmp;
mod template;
mod tsc;
mod version;
mod vm;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    AgentChannel, Fingerprint, GuestImage, LeftMachine, SharedFs, TemplateFiles, Vm, VmSpec, Vmm,
    VmmCapabilities, VmmError,
};

pub use accelerator::{AcceleratorChoice, Probe};
pub use version::QemuVersion;

/// `-version` only has to load the program.
const VERSION_DEADLINE: Duration = Duration::from_secs(5);

const CAPABILITIES: VmmCapabilities = VmmCapabilities {
    snapshot: true,
    cow_clone: true,
    hotplug: false,
    shared_fs: SharedFs::NineP,
    channel: AgentChannel::VirtioSerial,
};

/// QEMU as installed on this host.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
}

impl Qemu {
    /// Finds QEMU at the configured path or, without one, in `PATH`. Starts nothing.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`], with what was tried.
    pub fn find(configured: Option<&Path>) -> Result<Self, VmmError> {
        let search_path = std::env::var("PATH").unwrap_or_default();
        Ok(Self { program: version::find(configured, &search_path)? })
    }

    /// The program that is started.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks the program for its version, which takes it some 30 ms: a boot learns it from QMP
    /// instead.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] if it is too old or prints something else.
    pub async fn version(&self) -> Result<QemuVersion, VmmError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("-version").env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(VERSION_DEADLINE, command.output()).await;
        let unsupported = |detail| VmmError::Unsupported { program: self.program.clone(), detail };
        let output = match output {
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(Err(error)) => return Err(unsupported(format!("cannot start it: {error}"))),
            Err(_) => {
                return Err(unsupported(format!("no -version within {VERSION_DEADLINE:?}")));
            }
        };
        QemuVersion::parse(&output)
            .ok_or_else(|| unsupported(format!("no QEMU version in {:?}", output.lines().next())))?
            .check(&self.program)
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> &VmmCapabilities {
        &CAPABILITIES
    }

    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn Vm>, VmmError> {
        check_readable(&spec.guest)?;
        Ok(Box::new(vm::boot(&self.program, spec).await?))
    }

    fn fingerprint(&self, spec: &VmSpec) -> Result<Fingerprint, VmmError> {
        template::fingerprint(&self.program, spec)
    }

    async fn save_template(&self, spec: &VmSpec, files: &TemplateFiles) -> Result<(), VmmError> {
        check_readable(&spec.guest)?;
        template::save(&self.program, spec, files).await
    }

    async fn restore(&self, spec: &VmSpec, files: &TemplateFiles) -> Result<Box<dyn Vm>, VmmError> {
        Ok(Box::new(template::restore(&self.program, spec, files).await?))
    }

    async fn attach(&self, left: &LeftMachine) -> Result<Option<Box<dyn Vm>>, VmmError> {
        let vm = attach::attach(&self.program, left).await?;
        Ok(vm.map(|vm| Box::new(vm) as Box<dyn Vm>))
    }
}

/// QEMU's own words for a missing file name it, but not its role.
fn check_readable(guest: &GuestImage) -> Result<(), VmmError> {
    for (role, path) in [("kernel", &guest.kernel), ("initramfs", &guest.initramfs)] {
        if let Err(source) = File::open(path) {
            return Err(VmmError::GuestFile { role, path: path.clone(), source });
        }
    }
    Ok(())
}
