//! containerd-shim-vmrt-v2: puts the shim and the virtual machines together.

mod template;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use runtime_api::{Result, Runtime};
use shim::{Abandoned, Backend};
use vmm_backend::vmm::Lifetime;
use vmm_backend::{Config, Host, Leftover, VmRuntime};

/// Where the shims of this host share the verdict about KVM.
const ACCELERATOR_CACHE: &str = "/run/vmrt/accelerator";

struct VirtualMachines;

impl Backend for VirtualMachines {
    fn check(&self) -> Result<()> {
        Config::load().map(drop)
    }

    fn open(&self, state_dir: &Path, namespace: &str) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(VmRuntime::open(Host {
            state_dir: state_dir.to_owned(),
            namespace: namespace.to_owned(),
            accelerator_cache: ACCELERATOR_CACHE.into(),
            lifetime: Lifetime::DiesWithOwner,
            config: Config::load()?,
        })?))
    }

    fn cleanup(&self, state_dir: &Path, abandoned: &Abandoned) -> Result<()> {
        let Abandoned { container, sandbox } = abandoned.clone();
        vmm_backend::cleanup(state_dir, &Leftover { sandbox, container })
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Daemons never ask for this: their actions follow flags.
    if arguments.next().is_some_and(|word| word == "template") {
        return template::run(arguments);
    }
    shim::run(VirtualMachines)
}
