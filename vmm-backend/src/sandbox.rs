//! A sandbox: one directory, one machine.
//!
//! ```text
//!   launch ──► booting ──► ready ──► (machine dies) ──► stopped
//!                 │          │                             │
//!                 │ failure  └──────────── delete ─────────┤
//!                 ▼                                        ▼
//!               failed ─────────────── delete ──────────► gone
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use runtime_api::{Error, Result, SandboxId, SandboxState};
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::guest::GuestIdentity;
use crate::host_cgroup::HostCgroup;
use crate::layout::SandboxDirectory;
use crate::machine::{Machine, MachineSpec};
use crate::process_identity::ProcessIdentity;
use crate::record::{MachineRecord, Record};
use crate::runtime::Host;
use crate::vmm::{Lifetime, NetworkNamespace};
use crate::watchdog::{self, Members};

/// What a sandbox is launched with.
pub(crate) struct Launch {
    pub(crate) id: SandboxId,
    pub(crate) hostname: String,
    pub(crate) network: NetworkNamespace,
    /// The control group of the container that it is made for.
    pub(crate) sibling: Option<PathBuf>,
    pub(crate) config: Config,
    /// Whether it lives only as long as it has containers.
    pub(crate) implicit: bool,
}

/// A sandbox, from the moment at which its machine begins to boot.
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) directory: SandboxDirectory,
    pub(crate) implicit: bool,
    /// What the daemon calls the group of its containers.
    pub(crate) namespace: String,
    pub(crate) created_at: SystemTime,
    /// Whether its machine lives on without this process.
    pub(crate) survives: bool,
    /// Its containers.
    pub(crate) members: Arc<Members>,
    cgroup: Option<HostCgroup>,
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
        let identity = GuestIdentity::new(&launch.id, &launch.hostname)?;
        directory.create()?;
        // Whoever places the owner of a machine places a machine that dies with it.
        let (owner, cgroup) = match host.lifetime {
            Lifetime::DiesWithOwner => (Some(ProcessIdentity::of_self()?), None),
            Lifetime::Survives => {
                (None, Some(HostCgroup::beside(launch.sibling.as_deref(), &launch.id)))
            }
        };
        let path = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let record = Record { owner, cgroup: path, machine: None };
        if let Err(error) = record.write(&directory.record()) {
            directory.remove()?;
            return Err(error);
        }
        let (done, boot) = watch::channel(Boot::Pending);
        let (id, implicit) = (launch.id.clone(), launch.implicit);
        let created_at = SystemTime::now();
        let birth = Birth {
            identity,
            launch,
            directory: directory.clone(),
            lifetime: host.lifetime,
            accelerator_cache: host.accelerator_cache.clone(),
            cgroup: cgroup.clone(),
            created_at,
        };
        let members = Arc::<Members>::default();
        let told = Arc::clone(&members);
        let task = tokio::spawn(async move {
            match birth.start().await {
                Ok(machine) => {
                    log::info!("phases of sandbox {}: {}", birth.launch.id, machine.phases());
                    done.send_replace(Boot::Ready(Arc::clone(&machine)));
                    let heartbeat = birth.launch.config.heartbeat_deadline();
                    follow(&birth.launch.id, &machine, &told, heartbeat).await;
                }
                Err(error) => {
                    log::error!("sandbox {}: {}", birth.launch.id, error.chain());
                    done.send_replace(Boot::Failed(Arc::new(error)));
                }
            }
        });
        let task = task.abort_handle();
        let survives = host.lifetime == Lifetime::Survives;
        let destroyed = OnceCell::new();
        Ok(Self {
            id,
            directory,
            implicit,
            namespace: host.namespace.clone(),
            created_at,
            survives,
            members,
            cgroup,
            boot,
            task,
            destroyed,
        })
    }

    /// The sandbox of a machine that has been taken over.
    pub(crate) fn taken_over(
        host: &Host,
        id: SandboxId,
        directory: SandboxDirectory,
        record: &MachineRecord,
        cgroup: Option<PathBuf>,
        machine: Machine,
    ) -> Self {
        let machine = Arc::new(machine);
        let (done, boot) = watch::channel(Boot::Ready(Arc::clone(&machine)));
        let members = Arc::<Members>::default();
        let (following, told, heartbeat) = (id.clone(), Arc::clone(&members), record.heartbeat);
        let task = tokio::spawn(async move {
            follow(&following, &machine, &told, heartbeat).await;
            drop(done);
        });
        Self {
            id,
            directory,
            implicit: record.implicit,
            namespace: host.namespace.clone(),
            created_at: record.created_at,
            survives: true,
            members,
            cgroup: cgroup.map(HostCgroup::at),
            boot,
            task: task.abort_handle(),
            destroyed: OnceCell::new(),
        }
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

    /// Its VMM, once that is ready; also after its end.
    pub(crate) fn vmm(&self) -> Option<ProcessIdentity> {
        self.ready_machine().and_then(|machine| machine.vmm())
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
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        self.directory.remove()
    }
}

/// A sandbox that comes into being.
struct Birth {
    identity: GuestIdentity,
    launch: Launch,
    directory: SandboxDirectory,
    lifetime: Lifetime,
    accelerator_cache: PathBuf,
    cgroup: Option<HostCgroup>,
    created_at: SystemTime,
}

impl Birth {
    /// Starts the machine, and leaves word of it where it is to be found again.
    async fn start(&self) -> Result<Arc<Machine>> {
        let spec = MachineSpec {
            identity: &self.identity,
            directory: &self.directory,
            config: &self.launch.config,
            lifetime: self.lifetime,
            network: &self.launch.network,
            accelerator_cache: &self.accelerator_cache,
            cgroup: self.cgroup.as_ref(),
        };
        let machine = Machine::start(spec).await?;
        if self.lifetime == Lifetime::Survives {
            if let Err(error) = self.leave_word(&machine) {
                machine.kill().await?;
                return Err(error);
            }
            // Not before: a machine of which nobody knows must end with its birth.
            machine.keep();
        }
        Ok(Arc::new(machine))
    }

    fn leave_word(&self, machine: &Machine) -> Result<()> {
        let vmm = machine
            .vmm()
            .ok_or_else(|| Error::unavailable("the virtual machine has ended at once"))?;
        let machine = MachineRecord {
            vmm,
            hostname: self.identity.hostname.clone(),
            machine_id: self.identity.machine_id,
            implicit: self.launch.implicit,
            created_at: self.created_at,
            deadline: self.launch.config.request_deadline(),
            heartbeat: self.launch.config.heartbeat_deadline(),
        };
        let cgroup = self.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let record = Record { owner: None, cgroup, machine: Some(machine) };
        record.write(&self.directory.record())
    }
}

/// Stays with a machine until it ends, and ends it when its guest is silent.
async fn follow(sandbox: &SandboxId, machine: &Machine, members: &Members, heartbeat: Duration) {
    let watching = async {
        watchdog::watch(machine, members, heartbeat).await;
        std::future::pending::<()>().await;
    };
    let exit = tokio::select! {
        exit = machine.exited() => exit,
        () = watching => return,
    };
    log::info!("machine of sandbox {sandbox} has ended: {}", exit.reason);
    if !exit.output.is_empty() {
        log::debug!("its last words: {}", exit.output);
    }
}
