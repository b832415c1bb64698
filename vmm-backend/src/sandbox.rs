//! A sandbox: one directory, one machine.
//!
//! ```text
//!   launch ──► booting ──► ready ──► (machine dies) ──► stopped
//!                 │          │                             │
//!                 │ failure  └──────────── delete ─────────┤
//!                 ▼                                        ▼
//!               failed ─────────────── delete ──────────► gone
//! ```

use std::sync::Arc;
use std::time::SystemTime;

use runtime_api::{Error, Result, SandboxId, SandboxState};
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::layout::SandboxDirectory;
use crate::machine::{Machine, MachineSpec};
use crate::record::{Identity, Record};
use crate::runtime::Host;
use crate::vmm::{Lifetime, NetworkNamespace};

/// What a sandbox is launched with.
pub(crate) struct Launch {
    pub(crate) id: SandboxId,
    pub(crate) hostname: String,
    pub(crate) network: NetworkNamespace,
    pub(crate) config: Config,
    /// Whether it lives only as long as it has containers.
    pub(crate) implicit: bool,
}

/// A sandbox, from the moment at which its machine begins to boot.
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) directory: SandboxDirectory,
    pub(crate) implicit: bool,
    pub(crate) created_at: SystemTime,
    boot: watch::Receiver<Boot>,
    task: AbortHandle,
    /// Set once it is gone: its directory may be another sandbox's then.
    destroyed: OnceCell<()>,
}

#[derive(Clone)]
enum Boot {
    Pending,
    Ready(Arc<Machine>),
    Failed(Arc<Error>),
}

impl Sandbox {
    /// Makes the directory and begins to boot.
    ///
    /// # Errors
    /// `AlreadyExists` when the directory is in use.
    pub(crate) fn launch(host: &Host, launch: Launch) -> Result<Self> {
        let directory = SandboxDirectory::of(&host.state_dir, &launch.id);
        directory.create()?;
        let owner = match host.lifetime {
            Lifetime::DiesWithOwner => Some(Identity::of_self()?),
            Lifetime::Survives => None,
        };
        Record { owner }.write(&directory)?;
        let (done, boot) = watch::channel(Boot::Pending);
        let (id, implicit) = (launch.id.clone(), launch.implicit);
        let lifetime = host.lifetime;
        let accelerator_cache = host.accelerator_cache.clone();
        let its_directory = directory.clone();
        let task = tokio::spawn(async move {
            let spec = MachineSpec {
                sandbox: &launch.id,
                hostname: &launch.hostname,
                directory: &its_directory,
                config: &launch.config,
                lifetime,
                network: &launch.network,
                accelerator_cache: &accelerator_cache,
            };
            match Machine::start(spec).await {
                Ok(machine) => {
                    let machine = Arc::new(machine);
                    log::info!("phases of sandbox {}: {}", launch.id, machine.phases());
                    done.send_replace(Boot::Ready(Arc::clone(&machine)));
                    let exit = machine.exited().await;
                    log::info!("machine of sandbox {} has ended: {}", launch.id, exit.reason);
                    if !exit.output.is_empty() {
                        log::debug!("its last words: {}", exit.output);
                    }
                }
                Err(error) => {
                    log::error!("sandbox {}: {}", launch.id, error.chain());
                    done.send_replace(Boot::Failed(Arc::new(error)));
                }
            }
        });
        let created_at = SystemTime::now();
        let task = task.abort_handle();
        let destroyed = OnceCell::new();
        Ok(Self { id, directory, implicit, created_at, boot, task, destroyed })
    }

    /// The machine, once it is ready.
    ///
    /// # Errors
    /// What made the boot fail, for each who asks; `Cancelled` when the sandbox was deleted meanwhile.
    pub(crate) async fn machine(&self) -> Result<Arc<Machine>> {
        let mut boot = self.boot.clone();
        let settled = boot.wait_for(|boot| !matches!(boot, Boot::Pending)).await;
        match settled.as_deref() {
            Ok(Boot::Ready(machine)) => Ok(Arc::clone(machine)),
            Ok(Boot::Failed(error)) => Err(Error::new(error.kind(), error.chain())),
            Ok(Boot::Pending) | Err(_) => {
                Err(Error::cancelled(format!("sandbox {} was deleted while it booted", self.id)))
            }
        }
    }

    /// The machine if it has become ready, without waiting.
    pub(crate) fn ready_machine(&self) -> Option<Arc<Machine>> {
        match &*self.boot.borrow() {
            Boot::Ready(machine) => Some(Arc::clone(machine)),
            Boot::Pending | Boot::Failed(_) => None,
        }
    }

    /// Whether the machine still runs.
    pub(crate) fn state(&self) -> SandboxState {
        if self.task.is_finished() { SandboxState::Stopped } else { SandboxState::Ready }
    }

    /// Ends the machine, also in the middle of its boot, and removes the directory. Whoever comes
    /// later waits for the first, and tries again only if that has failed.
    ///
    /// # Errors
    /// What stays behind, by name.
    pub(crate) async fn destroy(&self) -> Result<()> {
        self.destroyed.get_or_try_init(|| self.remove()).await.copied()
    }

    async fn remove(&self) -> Result<()> {
        match self.ready_machine() {
            Some(machine) => machine.kill().await?,
            None => {
                self.task.abort();
                // The aborted boot has removed its process when its last future is gone.
                let mut boot = self.boot.clone();
                while boot.changed().await.is_ok() {}
            }
        }
        self.directory.remove()
    }
}
