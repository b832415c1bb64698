//! `libvmrt.so`: the C table of runtime-capi over the virtual machines of vmm-backend.

#![expect(unsafe_code, reason = "an exported symbol cannot have a mangled name")]

use std::sync::Arc;

use runtime_api::{Result, Runtime};
use runtime_capi::Api;
use runtime_capi::export::{Library, Settings, of_version, table};
use vmm_backend::vmm::Lifetime;
use vmm_backend::{Config, Host, VmRuntime};

/// Where all runtimes of this host share the verdict about KVM.
const ACCELERATOR_CACHE: &str = "/run/vmrt/accelerator";

struct VirtualMachines;

impl Library for VirtualMachines {
    fn open(settings: Settings) -> Result<Arc<dyn Runtime>> {
        let config = match settings.config {
            Some(path) => Config::read(&path)?,
            None => Config::load()?,
        };
        Ok(Arc::new(VmRuntime::open(Host {
            state_dir: settings.state_dir,
            namespace: String::new(),
            accelerator_cache: ACCELERATOR_CACHE.into(),
            lifetime: Lifetime::Survives,
            config,
        })?))
    }
}

static TABLE: Api = table::<VirtualMachines>();

/// The only symbol: the table of this major version, or null when it is not served.
// SAFETY: the name carries the project's prefix, and this is the library's only exported symbol.
#[unsafe(no_mangle)]
pub extern "C" fn vmrt_get_api(major: u32) -> *const Api {
    of_version(&TABLE, major)
}
