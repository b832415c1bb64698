//! The [`Runtime`] trait, on the kernel this process runs on.
//!
//! The guest is one sandbox, so that there is nothing to create or delete but containers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_core::Stream;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Endpoint, Error, Event,
    EventStream, Exec, ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState,
    Result, ResultExt, Runtime, SandboxId, SandboxStatus, Signal, Stats, Status, Stdio, Token,
    Update, WindowSize,
};
use tokio::sync::mpsc;

use crate::cgroup::Freezer;
use crate::container::{Container, api_pid, text};
use crate::containers::Containers;
use crate::helper;
use crate::launcher::Launcher;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::spares::Spares;

/// How many events wait for their reader before the newest are lost.
const EVENT_QUEUE: usize = 4096;

/// How a [`LinuxRuntime`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The program to run as a helper, with the name of its [`Role`](crate::helper::Role) as its
    /// argument. Default: `/proc/self/exe`, which is right where the program is the agent.
    pub executable: PathBuf,
    /// How many helpers of each kind wait for the first requests. Default: 3.
    pub spares: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { executable: "/proc/self/exe".into(), spares: 3 }
    }
}

/// Containers on plain Linux with cgroup version 2.
///
/// It reaps every child of its process and has to inherit the orphans: its process is PID 1 of a
/// pid namespace, or a child subreaper (prctl(2)).
pub struct LinuxRuntime {
    containers: Arc<Containers>,
    reaper: Arc<Reaper>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
}

impl LinuxRuntime {
    /// Makes a runtime without containers.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let reaper = Arc::new(Reaper::default());
        let spares = Spares::new(Arc::clone(&reaper), options.executable, options.spares);
        let (queue, events) = mpsc::channel(EVENT_QUEUE);
        Self {
            containers: Arc::new(Containers::new(Launcher::new(spares), queue)),
            reaper,
            events: Mutex::new(Some(events)),
        }
    }

    /// Starts the helpers that the first requests will find waiting. Without them these take longer.
    pub async fn prepare_helpers(&self) {
        self.containers.launcher().spares().fill().await;
    }

    /// Reaps children and notices OOM kills; nothing works without it. It does not return unless it
    /// fails.
    ///
    /// # Errors
    /// `Internal` when no signal handler can be installed.
    pub async fn run(&self) -> Result<()> {
        tokio::select! {
            ended = self.reaper.run() => ended,
            ended = self.containers.oom().run() => ended,
        }
    }

    /// Tells the runtime which sandbox it is.
    pub fn set_sandbox(&self, sandbox: SandboxId) {
        self.containers.set_sandbox(sandbox);
    }

    /// A process by its name.
    pub(crate) fn find(&self, process: &ProcessRef) -> Result<Arc<Process>> {
        let container = self.containers.find(process)?;
        match &process.exec {
            None => Ok(Arc::clone(&container.init)),
            Some(exec) => container.find_exec(exec),
        }
    }

    fn find_container(&self, id: &ContainerId) -> Result<Arc<Container>> {
        self.containers.find(&ProcessRef::init(id.clone()))
    }
}

/// Completes `work` whether or not the caller stays.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.internal(|| "an operation broke")?
}

/// The streams that the agent serves.
fn check_streams(stdio: &Stdio) -> Result<()> {
    for endpoint in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        if !matches!(endpoint, Endpoint::Null | Endpoint::Channel) {
            let message = format!("stream \"{endpoint}\": a guest has channel streams only");
            return Err(Error::invalid_argument(message));
        }
    }
    Ok(())
}

fn no_sandboxes<T>(attempt: &str) -> Result<T> {
    Err(Error::unimplemented(format!("{attempt}: a guest is one sandbox")))
}

#[async_trait]
impl Runtime for LinuxRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec: true,
            terminal: true,
            pause: true,
            update: true,
            stats: true,
            sandbox: false,
            attach: false,
            dial: false,
            checkpoint: false,
        }
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        no_sandboxes(&format!("create sandbox {}", request.id))
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        no_sandboxes(&format!("status of sandbox {sandbox}"))
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        no_sandboxes(&format!("delete sandbox {sandbox}"))
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        check_streams(&request.stdio)?;
        if !request.rootfs.is_empty() {
            let message = format!("container {}: a guest mounts no root filesystem", request.id);
            return Err(Error::invalid_argument(message));
        }
        let creation = self.containers.reserve(&request)?;
        let container = to_the_end(Arc::clone(&self.containers).create(request, creation)).await?;
        Ok(Created {
            handle: Handle {
                container: container.id.clone(),
                key: Some(container.key),
                token: Token::default(),
            },
            pid: api_pid(container.init.pid()),
        })
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        let container = self.containers.find(process)?;
        let pid = match process.exec.clone() {
            None => container.start()?,
            Some(exec) => to_the_end(async move { container.start_exec(&exec).await }).await?,
        };
        Ok(api_pid(Some(pid)))
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        check_streams(&request.stdio)?;
        helper::check_process(&request.process, &request.stdio)?;
        self.find_container(&request.container)?.add_exec(request)
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        let container = self.containers.find(process)?;
        let found = self.find(process)?;
        let status = match process.exec {
            None => container.status(),
            Some(_) => found.status(),
        };
        Ok(ProcessState {
            bundle: container.bundle.clone(),
            pid: api_pid(found.pid()),
            status,
            stdio: found.stdio.clone(),
            exit: found.exit(),
        })
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        let found = self.find(process)?;
        match scope {
            KillScope::Process => found.signal(signal),
            KillScope::All => {
                let container = self.containers.find(process)?;
                // Asks the init process first, so that a stopped container answers NotFound.
                container.init.signal(Signal::parse(0)?)?;
                container.cgroup.signal(signal)
            }
        }
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.find(process)?.wait().await
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let containers = Arc::clone(&self.containers);
        let process = process.clone();
        to_the_end(async move { containers.delete(&process).await }).await
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        let container = self.find_container(container)?;
        to_the_end(async move { container.freeze(Freezer::Frozen).await }).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        let container = self.find_container(container)?;
        to_the_end(async move { container.freeze(Freezer::Thawed).await }).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        let container = self.find_container(&request.container)?;
        if container.status() == Status::Stopped {
            let message = format!("update container {}: it has stopped", container.id);
            return Err(Error::failed_precondition(message));
        }
        let update = helper::Update {
            cgroup: container.cgroup_path.clone(),
            resources: text(request.resources)?,
        };
        let request = helper::Request::Update(update);
        to_the_end(async move {
            container.launcher.launch(&request, Vec::new(), &mut None).await.map(drop)
        })
        .await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        Ok(self.find_container(container)?.cgroup.stats())
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        self.find_container(container)?.processes()
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        self.find(process)?.resize(size)
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        self.find(process)?.close_input();
        Ok(())
    }

    async fn attach(&self, _token: &Token) -> Result<Handle> {
        Err(Error::unimplemented("attach: the agent outlives its host's runtime"))
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        Err(Error::unimplemented(format!("dial port {port} of sandbox {sandbox}")))
    }

    fn events(&self) -> Result<EventStream> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match events.take() {
            Some(events) => Ok(Box::pin(Events(events))),
            None => Err(Error::failed_precondition("the events have a reader already")),
        }
    }
}

struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}
