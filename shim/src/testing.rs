//! Stand-ins for the two neighbours of the shim: the runtime, and the daemon's event service.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use futures_core::Stream;
use runtime_api::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

pub(crate) fn sandbox(id: &str) -> SandboxId {
    SandboxId::parse(id).unwrap()
}

pub(crate) fn container(id: &str) -> ContainerId {
    ContainerId::parse(id).unwrap()
}

pub(crate) fn event(id: &str, kind: EventKind) -> Event {
    Event { sandbox: sandbox("pod"), container: container(id), at: SystemTime::now(), kind }
}

struct Receiver(UnboundedReceiver<Event>);

impl Stream for Receiver {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

/// A queue of events.
pub(crate) fn events() -> (UnboundedSender<Event>, EventStream) {
    let (sender, receiver) = unbounded_channel();
    (sender, Box::pin(Receiver(receiver)))
}

/// A runtime that holds at most the sandbox `pod`, whose containers have no processes.
pub(crate) struct StubRuntime {
    events: UnboundedSender<Event>,
    stream: Mutex<Option<EventStream>>,
    pod: Mutex<Option<Vec<ContainerId>>>,
}

impl StubRuntime {
    pub(crate) fn new() -> Arc<Self> {
        let (events, stream) = events();
        Arc::new(Self { events, stream: Mutex::new(Some(stream)), pod: Mutex::default() })
    }

    pub(crate) fn set_pod(&self, containers: Option<&[&str]>) {
        *self.pod.lock().unwrap() =
            containers.map(|ids| ids.iter().map(|id| container(id)).collect());
    }

    pub(crate) fn has_pod(&self) -> bool {
        self.pod.lock().unwrap().is_some()
    }

    fn absent<T>(&self) -> Result<T> {
        Err(Error::unimplemented("the stand-in has no such operation"))
    }
}

#[async_trait]
impl Runtime for StubRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn sandbox_status(&self, id: &SandboxId) -> Result<SandboxStatus> {
        let pod = self.pod.lock().unwrap().clone().filter(|_| *id == sandbox("pod"));
        let containers = pod.ok_or_else(|| Error::not_found(format!("sandbox {id}")))?;
        let (state, pid) = (SandboxState::Ready, Pid(1));
        Ok(SandboxStatus { state, pid, created_at: SystemTime::now(), containers })
    }

    async fn delete_sandbox(&self, id: &SandboxId) -> Result<()> {
        let mut pod = self.pod.lock().unwrap();
        match pod.take() {
            Some(containers) if containers.is_empty() => Ok(()),
            Some(_) => Err(Error::failed_precondition(format!("sandbox {id} is in use"))),
            None => Err(Error::not_found(format!("sandbox {id}"))),
        }
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        assert_eq!((signal, scope), (Signal::KILL, KillScope::All), "{process}");
        Ok(())
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        if !self.has_pod() {
            return Err(Error::not_found(process.to_string()));
        }
        Ok(ExitStatus { code: 137, at: SystemTime::now() })
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let mut pod = self.pod.lock().unwrap();
        pod.as_mut().unwrap().retain(|id| *id != process.container);
        let exit = ExitStatus { code: 137, at: SystemTime::now() };
        let kind = EventKind::Delete { pid: Pid(1), exit };
        self.events.send(event(process.container.as_str(), kind)).unwrap();
        Ok(exit)
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        Err(Error::not_found(process.to_string()))
    }

    fn events(&self) -> Result<EventStream> {
        Ok(self.stream.lock().unwrap().take().unwrap())
    }

    async fn create_sandbox(&self, _: CreateSandbox) -> Result<Pid> {
        self.absent()
    }

    async fn create_container(&self, _: CreateContainer) -> Result<Created> {
        self.absent()
    }

    async fn start(&self, _: &ProcessRef) -> Result<Pid> {
        self.absent()
    }

    async fn exec(&self, _: Exec) -> Result<()> {
        self.absent()
    }

    async fn pause(&self, _: &ContainerId) -> Result<()> {
        self.absent()
    }

    async fn resume(&self, _: &ContainerId) -> Result<()> {
        self.absent()
    }

    async fn update(&self, _: Update) -> Result<()> {
        self.absent()
    }

    async fn stats(&self, _: &ContainerId) -> Result<Stats> {
        self.absent()
    }

    async fn pids(&self, _: &ContainerId) -> Result<Vec<ProcessInfo>> {
        self.absent()
    }

    async fn resize_pty(&self, _: &ProcessRef, _: WindowSize) -> Result<()> {
        self.absent()
    }

    async fn close_io(&self, _: &ProcessRef) -> Result<()> {
        self.absent()
    }

    async fn attach(&self, _: &Token) -> Result<Handle> {
        self.absent()
    }

    async fn dial(&self, _: &SandboxId, _: u16) -> Result<std::os::fd::OwnedFd> {
        self.absent()
    }
}

/// What the daemon's event service does with the next events before it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It takes them.
    Well,
    /// It refuses that many.
    Refuses(u32),
    /// It does not answer that many.
    Hangs(u32),
}

/// The daemon's event service. Dropping it is the daemon's death.
pub(crate) struct EventService {
    server: Server,
    received: UnboundedReceiver<Envelope>,
}

struct Receive {
    mood: Mutex<Mood>,
    received: UnboundedSender<Envelope>,
}

impl EventService {
    pub(crate) async fn listen(socket: &Path, mood: Mood) -> Self {
        let _ = std::fs::remove_file(socket);
        let (sender, received) = unbounded_channel();
        let receive = Receive { mood: Mutex::new(mood), received: sender };
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_events(Arc::new(receive)));
        server.start().await.unwrap();
        Self { server, received }
    }

    /// The next event: its topic, and the envelope.
    pub(crate) async fn next(&mut self) -> (String, Envelope) {
        let envelope = self.received.recv().await.unwrap();
        (envelope.topic.clone(), envelope)
    }

    pub(crate) async fn die(mut self) {
        self.server.shutdown().await.unwrap();
    }
}

#[async_trait]
impl Events for Receive {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mood = {
            let mut mood = self.mood.lock().unwrap();
            let now = *mood;
            *mood = match now {
                Mood::Refuses(times) if times > 1 => Mood::Refuses(times - 1),
                Mood::Hangs(times) if times > 1 => Mood::Hangs(times - 1),
                _ => Mood::Well,
            };
            now
        };
        match mood {
            Mood::Refuses(_) => {
                Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "no thanks")))
            }
            Mood::Hangs(_) => std::future::pending().await,
            Mood::Well => {
                self.received.send(request.envelope.unwrap()).unwrap();
                Ok(Empty::new())
            }
        }
    }
}
