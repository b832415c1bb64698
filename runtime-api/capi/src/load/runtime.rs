//! [`LibraryRuntime`]: the trait over a table.
//!
//! ```text
//!   call ── submit ──► done, or pending[tag] ◄── reap ── one task that waits for the descriptor
//!    └ dropped: cancel
//! ```

use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, Event, EventStream,
    Exec, ExitStatus, Handle, Key, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result,
    Runtime, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};
use runtime_task::{Method, TaskClient, Transport, convert, event_of, messages};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::instance::{BATCH, Instance};
use super::{Library, Options};
use crate::abi::{ATTACH, DIAL, TOPICS};

/// How long a call may take; creations in a cold VM take longest.
const DEADLINE: Duration = Duration::from_secs(120);

/// What every library of this version can do. What it cannot, it answers `Unimplemented`.
const CAPABILITIES: Capabilities = Capabilities {
    exec: true,
    terminal: true,
    pause: true,
    update: true,
    stats: true,
    sandbox: false,
    attach: true,
    dial: true,
    checkpoint: false,
};

/// A runtime behind a table.
pub(super) struct LibraryRuntime {
    instance: Arc<Instance>,
    tasks: TaskClient<Calls>,
    events: Mutex<Option<mpsc::UnboundedReceiver<Event>>>,
    reaper: tokio::task::JoinHandle<()>,
}

impl LibraryRuntime {
    pub(super) fn open(library: Library, options: &Options) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let instance = Arc::new(Instance::open(library, options)?);
        let signal = instance.signal()?;
        let reaper = tokio::spawn(reap(Arc::downgrade(&instance), signal, sender));
        let tasks = TaskClient::new(Calls(Arc::clone(&instance)), CAPABILITIES, DEADLINE);
        Ok(Self { instance, tasks, events: Mutex::new(Some(events)), reaper })
    }
}

impl Drop for LibraryRuntime {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

async fn reap(
    instance: std::sync::Weak<Instance>,
    signal: AsyncFd<OwnedFd>,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Ok(mut ready) = signal.readable().await {
        let Some(instance) = instance.upgrade() else { return };
        let taken = instance.reap();
        if taken.len() < BATCH {
            ready.clear_ready();
        }
        for outcome in taken {
            // SAFETY: it has just been reaped, and is used once.
            let (tag, event, answer) =
                (outcome.tag, outcome.event, unsafe { instance.take(outcome) });
            if tag == 0 {
                match event_of(topic_of(event), &answer.data) {
                    // Nobody is owed events that nobody takes.
                    Ok(event) => drop(events.send(event)),
                    Err(error) => log::error!("an event is lost: {}", error.chain()),
                }
            } else if let Some(waiting) = instance.pending().remove(&tag) {
                let _ = waiting.send(answer);
            }
        }
    }
}

/// The topic of an event; of a number that is none, no topic.
fn topic_of(number: u32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| TOPICS.get(number)).copied().unwrap_or_default()
}

/// Carries Task messages over the table.
struct Calls(Arc<Instance>);

#[async_trait]
impl Transport for Calls {
    async fn call(
        &self,
        method: Method,
        payload: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>> {
        Ok(self.0.call(method as u32, &payload, deadline).await?.data)
    }
}

/// Events as a stream of the trait.
struct Events(mpsc::UnboundedReceiver<Event>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

#[async_trait]
impl Runtime for LibraryRuntime {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let container = request.id.clone();
        let request = convert::encode(&convert::create_request(request)?)?;
        let answer = self.instance.call(Method::Create as u32, &request, Some(DEADLINE)).await?;
        let response: messages::CreateTaskResponse = convert::decode(&answer.data)?;
        let (pid, token) = convert::created(&response);
        Ok(Created { handle: Handle { container, key: Key::new(answer.key), token }, pid })
    }

    async fn attach(&self, token: &Token) -> Result<Handle> {
        let answer = self.instance.call(ATTACH, &token.0, Some(DEADLINE)).await?;
        let response: messages::StateResponse = convert::decode(&answer.data)?;
        let container = ContainerId::parse(response.id)?;
        Ok(Handle { container, key: Key::new(answer.key), token: token.clone() })
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        let request = convert::dial_request(sandbox, port)?;
        let answer = self.instance.call(DIAL, &request, Some(DEADLINE)).await?;
        answer.fd.ok_or_else(|| Error::internal("the library has answered Dial without a socket"))
    }

    fn events(&self) -> Result<EventStream> {
        let taken = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(events) => Ok(Box::pin(Events(events))),
            None => Err(Error::failed_precondition("the events have been taken before")),
        }
    }

    // The rest is Task's.

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        self.tasks.create_sandbox(request).await
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        self.tasks.sandbox_status(sandbox).await
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        self.tasks.delete_sandbox(sandbox).await
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        self.tasks.start(process).await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        self.tasks.exec(request).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        self.tasks.state(process).await
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        self.tasks.kill(process, signal, scope).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.tasks.wait(process).await
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.tasks.delete(process).await
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        self.tasks.pause(container).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        self.tasks.resume(container).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        self.tasks.update(request).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        self.tasks.stats(container).await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        self.tasks.pids(container).await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        self.tasks.resize_pty(process, size).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        self.tasks.close_io(process).await
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        self.tasks.checkpoint(container, directory).await
    }
}
