//! [`VmRuntime`]: the trait on the host, with a virtual machine for each sandbox.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, EventStream, Exec,
    ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result, ResultExt,
    Runtime, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};
use tokio::sync::OnceCell;

use crate::bundle::Bundle;
use crate::cleanup::sweep;
use crate::config::Config;
use crate::container::Container;
use crate::dial::dial;
use crate::events::EventQueue;
use crate::guest::GUEST_CAPABILITIES;
use crate::hooks::Stage;
use crate::machine::Machine;
use crate::phase::Phase;
use crate::process::Process;
use crate::registry::Registry;
use crate::sandbox::{Launch, Sandbox};
use crate::update;
use crate::vmm::{Lifetime, NetworkNamespace};

/// What a runtime is opened with.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the sandboxes' directories are; it exists, has mode 0700, and belongs to this runtime.
    pub state_dir: PathBuf,
    /// What the daemon calls the group of its containers, for logging programs; empty for none.
    pub namespace: String,
    /// Where the verdict about KVM is kept, for all runtimes of the host.
    pub accelerator_cache: PathBuf,
    /// What the death of this process means for its machines.
    pub lifetime: Lifetime,
    /// The configuration.
    pub config: Config,
}

/// Runs every sandbox in a virtual machine of its own.
pub struct VmRuntime(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) host: Host,
    registry: Mutex<Registry>,
    pub(crate) events: Arc<EventQueue>,
    /// Under way, for each sandbox of an earlier run.
    attachments: Mutex<Attachments>,
    /// Keeps others away from the machines that live on.
    _lock: Option<File>,
}

type Attachments = HashMap<SandboxId, Arc<OnceCell<()>>>;

impl VmRuntime {
    /// Opens a runtime. Nothing is started yet. Where machines live on, this runtime has the state
    /// directory, which is made if need be, for itself, and what has died there meanwhile is removed.
    ///
    /// # Errors
    /// `FailedPrecondition` when another runtime has the state directory.
    pub fn open(host: Host) -> Result<Self> {
        let lock = match host.lifetime {
            Lifetime::Survives => Some(take_over(&host.state_dir)?),
            Lifetime::DiesWithOwner => None,
        };
        let (registry, events) = (Mutex::default(), Arc::new(EventQueue::new()));
        let attachments = Mutex::default();
        Ok(Self(Arc::new(Shared { host, registry, events, attachments, _lock: lock })))
    }
}

/// Locks a state directory and removes what is dead in it.
fn take_over(state_dir: &Path) -> Result<File> {
    let taking = || format!("take over state directory {}", state_dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).internal(taking)?;
    let lock = File::open(state_dir).internal(taking)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("another runtime has state directory {}", state_dir.display());
            return Err(Error::failed_precondition(message));
        }
        Err(TryLockError::Error(error)) => return Err(error).internal(taking),
    }
    sweep(state_dir)?;
    Ok(lock)
}

/// Runs work that must come to its end even when its caller goes away.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let broken = |source| Err(Error::internal("the operation broke").with_source(source));
    tokio::spawn(work).await.unwrap_or_else(broken)
}

impl Shared {
    pub(crate) fn attachments(&self) -> MutexGuard<'_, Attachments> {
        self.attachments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, process: &ProcessRef) -> Result<Arc<Container>> {
        let registry = self.registry();
        let found = match process.key {
            Some(key) => registry.keys.get(&key).filter(|found| found.id == process.container),
            None => registry.containers.get(&process.container),
        };
        found.cloned().ok_or_else(|| Error::not_found(format!("container {}", process.container)))
    }

    /// A process that exists for daemons: neither one that is still being created nor one that is
    /// gone.
    fn process(&self, process: &ProcessRef) -> Result<(Arc<Container>, Arc<Process>)> {
        let container = self.container(process)?;
        let found = container.process(process.exec.as_ref())?;
        match found.life.phase().status() {
            Some(_) => Ok((container, found)),
            None => Err(Error::not_found(format!("{process} is still being created"))),
        }
    }

    fn init(&self, container: &ContainerId) -> Result<(Arc<Container>, Arc<Process>)> {
        self.process(&ProcessRef::init(container.clone()))
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let bundle = Bundle::read(&request.bundle)?;
        let container = self.reserve(&request, &bundle)?;
        match Arc::clone(&container).create(&bundle).await {
            Ok(pid) => {
                let (id, key) = (container.id.clone(), Some(container.key));
                let handle = Handle { container: id, key, token: Self::token(&container) };
                Ok(Created { handle, pid })
            }
            Err(error) => {
                if let Err(left) = self.release(&container).await {
                    log::error!("container {}: {}", container.id, left.chain());
                }
                Err(error)
            }
        }
    }

    /// Takes the id, and finds or launches the sandbox.
    fn reserve(&self, request: &CreateContainer, bundle: &Bundle) -> Result<Arc<Container>> {
        let grouped = bundle.grouping(&request.id)?.sandbox;
        let mut registry = self.registry();
        if registry.containers.contains_key(&request.id) {
            return Err(Error::already_exists(format!("container {}", request.id)));
        }
        let sandbox = match &request.sandbox {
            Some(named) => registry
                .sandboxes
                .get(named)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("sandbox {named}")))?,
            None => match registry.sandboxes.get(&grouped) {
                Some(sandbox) => Arc::clone(sandbox),
                None => {
                    let launch = Launch {
                        id: grouped.clone(),
                        hostname: bundle.hostname().to_owned(),
                        network: bundle.network(),
                        sibling: bundle.cgroup(),
                        config: self.host.config.with_options(&request.options)?,
                        implicit: true,
                    };
                    let sandbox = Arc::new(Sandbox::launch(&self.host, launch)?);
                    registry.sandboxes.insert(grouped, Arc::clone(&sandbox));
                    sandbox
                }
            },
        };
        let (key, hooks) = (registry.new_key()?, bundle.hooks());
        let container =
            Arc::new(Container::new(request, hooks, key, sandbox, Arc::clone(&self.events)));
        registry.insert(Arc::clone(&container));
        Ok(container)
    }

    /// Gives the id back, and ends a sandbox that was there for its containers only.
    async fn release(&self, container: &Arc<Container>) -> Result<()> {
        let sandbox = &container.sandbox;
        {
            let mut registry = self.registry();
            sandbox.members.remove(&container.id);
            registry.containers.remove(&container.id);
            registry.keys.remove(&container.key);
            if !sandbox.implicit || registry.has_containers(sandbox) {
                return Ok(());
            }
        }
        self.destroy(sandbox).await
    }

    /// Ends a sandbox. It stays registered until it is gone, so that nobody takes its directory.
    async fn destroy(&self, sandbox: &Sandbox) -> Result<()> {
        sandbox.destroy().await?;
        let mut registry = self.registry();
        if registry.sandboxes.get(&sandbox.id).is_some_and(|found| std::ptr::eq(&**found, sandbox))
        {
            registry.sandboxes.remove(&sandbox.id);
        }
        Ok(())
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        if let Some(netns) = request.netns {
            return Err(Error::unimplemented(format!(
                "network namespace {} of sandbox {}",
                netns.display(),
                request.id
            )));
        }
        let sandbox = {
            let mut registry = self.registry();
            if registry.sandboxes.contains_key(&request.id) {
                return Err(Error::already_exists(format!("sandbox {}", request.id)));
            }
            let launch = Launch {
                id: request.id.clone(),
                hostname: request.hostname,
                network: NetworkNamespace::New,
                sibling: None,
                config: self.host.config.with_options(&request.options)?,
                implicit: false,
            };
            let sandbox = Arc::new(Sandbox::launch(&self.host, launch)?);
            registry.sandboxes.insert(request.id, Arc::clone(&sandbox));
            sandbox
        };
        match sandbox.machine().await {
            Ok(machine) => Ok(machine.pid()),
            Err(error) => {
                if let Err(left) = self.destroy(&sandbox).await {
                    log::error!("sandbox {}: {}", sandbox.id, left.chain());
                }
                Err(error)
            }
        }
    }

    async fn delete_sandbox(&self, id: SandboxId) -> Result<()> {
        let sandbox = {
            let registry = self.registry();
            let sandbox = registry.sandbox(&id)?;
            if registry.has_containers(&sandbox) {
                return Err(Error::failed_precondition(format!("sandbox {id} has containers")));
            }
            sandbox
        };
        self.destroy(&sandbox).await
    }

    async fn delete(&self, process: ProcessRef) -> Result<ExitStatus> {
        let container = self.container(&process)?;
        if let Some(exec) = &process.exec {
            let exec = container.process(Some(exec))?;
            return container.delete_exec(&exec).await;
        }
        if container.init.life.phase() == Phase::Creating {
            container.cancel_creation().await;
            // The creation releases it too, but the caller must not be answered before that.
            self.release(&container).await?;
        }
        let exit = container.delete().await?;
        self.release(&container).await?;
        Ok(exit)
    }
}

/// The machine of a process that may still be there.
async fn machine_of(container: &Container, process: &Process) -> Result<Arc<Machine>> {
    if process.life.phase().exit().is_some() {
        return Err(Error::not_found(format!("{} has ended", process.reference)));
    }
    container.sandbox.machine().await
}

#[async_trait]
impl Runtime for VmRuntime {
    fn capabilities(&self) -> Capabilities {
        let attach = self.0.host.lifetime == Lifetime::Survives;
        Capabilities { sandbox: true, dial: true, attach, ..GUEST_CAPABILITIES }
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        let shared = Arc::clone(&self.0);
        detached(async move { shared.create_sandbox(request).await }).await
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        let registry = self.0.registry();
        let found = registry.sandbox(sandbox)?;
        let mut containers: Vec<_> =
            registry.containers.values().filter(|one| one.sandbox.id == *sandbox).collect();
        containers.sort_by_key(|container| container.key.number());
        Ok(SandboxStatus {
            state: found.state(),
            pid: found.ready_machine().map_or(Pid(0), |machine| machine.pid()),
            created_at: found.created_at,
            containers: containers.into_iter().map(|container| container.id.clone()).collect(),
        })
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        let (shared, sandbox) = (Arc::clone(&self.0), sandbox.clone());
        detached(async move { shared.delete_sandbox(sandbox).await }).await
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let shared = Arc::clone(&self.0);
        detached(async move { shared.create_container(request).await }).await
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        let (container, process) = self.0.process(process)?;
        detached(async move {
            let init = container.init.life.phase();
            // An exec may run before the init does, but not after it.
            let alive = matches!(init, Phase::Created | Phase::Starting | Phase::Running);
            if process.reference.exec.is_some() && !alive {
                return Err(Error::failed_precondition(format!(
                    "{}: its container has stopped or is paused",
                    process.reference
                )));
            }
            let machine = container.sandbox.machine().await?;
            let pid = process.start(&container, &machine).await?;
            if process.reference.exec.is_none() {
                container.run_hooks(Stage::Poststart, pid).await;
            }
            Ok(pid)
        })
        .await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        let (container, _) = self.0.init(&request.container)?;
        detached(container.exec(request)).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        let (container, found) = self.0.process(process)?;
        let phase = found.life.phase();
        let Some(status) = phase.status() else {
            return Err(Error::not_found(format!("{process} is gone")));
        };
        Ok(ProcessState {
            bundle: container.bundle.clone(),
            pid: container.pid(),
            status,
            stdio: found.stdio.clone(),
            exit: phase.exit(),
        })
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        let (container, process) = self.0.process(process)?;
        detached(async move {
            let machine = machine_of(&container, &process).await?;
            process.kill(&machine, signal, scope).await
        })
        .await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let (_, found) = self.0.process(process)?;
        let exit = found.life.exited().await;
        exit.ok_or_else(|| Error::not_found(format!("{process} is gone")))
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let (shared, process) = (Arc::clone(&self.0), process.clone());
        detached(async move { shared.delete(process).await }).await
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        let (container, init) = self.0.init(container)?;
        detached(async move { container.freeze(&init).await }).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        let (container, init) = self.0.init(container)?;
        detached(async move { container.thaw(&init).await }).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        let (container, init) = self.0.init(&request.container)?;
        if init.life.phase().exit().is_some() {
            return Err(Error::failed_precondition(format!("{} has ended", init.reference)));
        }
        let machine = container.sandbox.machine().await?;
        let resources = update::translate(&request.resources, &container.bundle)?;
        let request = Update { resources, ..request };
        detached(async move { machine.guest().tasks().update(request).await }).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        let (found, _) = self.0.init(container)?;
        found.stats().await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        let (found, _) = self.0.init(container)?;
        found.pids().await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        let (container, found) = self.0.process(process)?;
        if found.life.phase().exit().is_some() {
            return Err(Error::failed_precondition(format!("{process} has ended")));
        }
        let machine = container.sandbox.machine().await?;
        machine.guest().tasks().resize_pty(&found.reference, size).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        let (_, process) = self.0.process(process)?;
        process.close_input();
        Ok(())
    }

    async fn attach(&self, token: &Token) -> Result<Handle> {
        let (shared, token) = (Arc::clone(&self.0), token.clone());
        detached(async move { shared.attach(token).await }).await
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        let sandbox = self.0.registry().sandbox(sandbox)?;
        detached(async move { dial(sandbox.machine().await?.guest(), port).await }).await
    }

    fn events(&self) -> Result<EventStream> {
        self.0.events.take()
    }
}
