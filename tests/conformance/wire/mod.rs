//! A shim as a [`Runtime`]: what a daemon does between its callers and the shims of its containers.
//!
//! ```text
//!   create  start ─► address ─► connect ─► Create          every other call: over the
//!   delete  Delete ─► Shutdown ─► `delete` action          container's own connection
//! ```

mod forward;
mod log;
mod shim;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, EventStream, Exec,
    ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result, ResultExt,
    Runtime, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};
use runtime_task::convert::encode;
use runtime_task::{Method, TaskClient, Transport, TtrpcTransport, messages};
use ttrpc::r#async::Client;

use forward::Forward;
use log::Log;
use shim::Shim;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(60);

/// What can be asked for over the wire.
const CAPABILITIES: Capabilities = Capabilities {
    exec: true,
    terminal: true,
    pause: true,
    update: true,
    stats: true,
    sandbox: false,
    attach: false,
    dial: false,
    checkpoint: false,
};

/// Where a shim is, and what its daemon is called.
pub(crate) struct Options {
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) namespace: String,
    /// Where the daemon has its sockets.
    pub(crate) directory: PathBuf,
}

/// A daemon in front of shims.
pub(crate) struct WireRuntime {
    shim: Shim,
    connections: Mutex<HashMap<ContainerId, Arc<Connection>>>,
    events: Mutex<Option<EventStream>>,
    _forward: Forward,
}

/// The connection that a container has to its server.
struct Connection {
    bundle: PathBuf,
    transport: Client,
    task: TaskClient<TtrpcTransport>,
    _log: Log,
}

impl WireRuntime {
    pub(crate) async fn open(options: Options) -> Result<Self> {
        let address = options.directory.join("c.sock");
        let (forward, events) = Forward::listen(&options.directory.join("c.sock.ttrpc")).await?;
        let Options { program, config, namespace, .. } = options;
        let events_address = forward.address.clone();
        let shim = Shim { program, config, namespace, address, events: events_address };
        let connections = Mutex::default();
        Ok(Self { shim, connections, events: Mutex::new(Some(events)), _forward: forward })
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Arc<Connection>>> {
        self.connections.lock().unwrap()
    }

    /// The connection of a container. A daemon knows which ids there are; here any server may be
    /// asked for one that nobody has created, for it must know too.
    fn route(&self, container: &ContainerId) -> Result<Arc<Connection>> {
        let connections = self.connections();
        let found = connections.get(container).or_else(|| connections.values().next());
        found.cloned().ok_or_else(|| Error::not_found(format!("no shim serves {container}")))
    }

    async fn connect(&self, container: &ContainerId, bundle: &Path) -> Result<Arc<Connection>> {
        let log = Log::open(bundle).internal(|| format!("make the log of {container}"))?;
        let address = self.shim.start(container, bundle).await?;
        let transport =
            Client::connect(&address).await.internal(|| format!("connect to {address}"))?;
        let task = TaskClient::new(TtrpcTransport::to_shim(transport.clone()), CAPABILITIES, CALL);
        let connection =
            Arc::new(Connection { bundle: bundle.to_owned(), transport, task, _log: log });
        self.connections().insert(container.clone(), Arc::clone(&connection));
        Ok(connection)
    }

    /// What follows the deletion of a container, and a creation that has failed.
    async fn dispose(&self, container: &ContainerId) -> Result<()> {
        let Some(connection) = self.connections().remove(container) else { return Ok(()) };
        let id = container.to_string();
        let request = encode(&messages::ShutdownRequest { id, ..Default::default() })?;
        // A server that leaves may take its connections along before it has answered.
        let shutdown = TtrpcTransport::to_shim(connection.transport.clone());
        let _ = shutdown.call(Method::Shutdown, request, Some(Duration::from_secs(3))).await;
        self.shim.delete(container, &connection.bundle).await
    }

    /// Removes everything, however things stand.
    pub(crate) async fn close(&self) {
        let left: Vec<_> = self.connections().keys().cloned().collect();
        for container in left {
            let init = ProcessRef::init(container.clone());
            if let Ok(connection) = self.route(&container) {
                let _ = connection.task.kill(&init, Signal::KILL, KillScope::All).await;
                let _ = connection.task.delete(&init).await;
            }
            let _ = self.dispose(&container).await;
        }
    }
}

fn no_words_for<A>(what: impl std::fmt::Display) -> Result<A> {
    Err(Error::unimplemented(format!("the wire has no {what}")))
}

#[async_trait]
impl Runtime for WireRuntime {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        no_words_for(format_args!("creation of sandbox {}", request.id))
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        no_words_for(format_args!("status of sandbox {sandbox}"))
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        no_words_for(format_args!("deletion of sandbox {sandbox}"))
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let id = request.id.clone();
        let known = self.connections().get(&id).cloned();
        if let Some(known) = known {
            return known.task.create_container(request).await;
        }
        let connection = self.connect(&id, &request.bundle).await?;
        let created = connection.task.create_container(request).await;
        if created.is_err() {
            // Why the creation failed is what the caller must hear.
            let _ = self.dispose(&id).await;
        }
        created
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        self.route(&process.container)?.task.start(process).await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        self.route(&request.container)?.task.exec(request).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        self.route(&process.container)?.task.state(process).await
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        self.route(&process.container)?.task.kill(process, signal, scope).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.route(&process.container)?.task.wait(process).await
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let deleted = self.route(&process.container)?.task.delete(process).await?;
        if process.exec.is_none() {
            self.dispose(&process.container).await?;
        }
        Ok(deleted)
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        self.route(container)?.task.pause(container).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        self.route(container)?.task.resume(container).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        self.route(&request.container)?.task.update(request).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        self.route(container)?.task.stats(container).await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        self.route(container)?.task.pids(container).await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        self.route(&process.container)?.task.resize_pty(process, size).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        self.route(&process.container)?.task.close_io(process).await
    }

    async fn attach(&self, _token: &Token) -> Result<Handle> {
        no_words_for("attach")
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        no_words_for(format_args!("dial to port {port} of sandbox {sandbox}"))
    }

    fn events(&self) -> Result<EventStream> {
        let taken = self.events.lock().unwrap().take();
        taken.ok_or_else(|| Error::failed_precondition("the events have been taken"))
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        self.route(container)?.task.checkpoint(container, directory).await
    }
}
