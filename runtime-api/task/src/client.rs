//! A [`Runtime`] that sends Task messages to another one.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, EventStream, Exec,
    ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result, Runtime,
    SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};

use crate::Method;
use crate::convert::{self, decode, encode};
use crate::metrics;

/// Carries one Task message to its server and brings the answer back.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Calls `method`. Without a `deadline` it waits until the peer answers or is gone.
    ///
    /// # Errors
    /// The error of the peer; `Unavailable` when it is gone; `DeadlineExceeded`.
    async fn call(
        &self,
        method: Method,
        payload: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>>;
}

/// A runtime at the other end of a transport.
///
/// What the Task service has no words for answers `Unimplemented`: sandboxes, attach, dial, events.
pub struct TaskClient<T> {
    transport: T,
    capabilities: Capabilities,
    deadline: Duration,
}

impl<T: Transport> TaskClient<T> {
    /// Speaks to the runtime at the other end of `transport`, which can do `capabilities`. Every call
    /// but `wait` ends after `deadline`.
    pub fn new(transport: T, capabilities: Capabilities, deadline: Duration) -> Self {
        Self { transport, capabilities, deadline }
    }

    async fn call<A: Message>(&self, method: Method, request: &impl Message) -> Result<A> {
        let answer = self.transport.call(method, encode(request)?, Some(self.deadline)).await?;
        decode(&answer)
    }

    async fn call_empty(&self, method: Method, request: &impl Message) -> Result<()> {
        self.call::<Empty>(method, request).await.map(drop)
    }
}

fn no_words_for<A>(what: impl std::fmt::Display) -> Result<A> {
    Err(Error::unimplemented(format!("the Task service has no {what}")))
}

#[async_trait]
impl<T: Transport> Runtime for TaskClient<T> {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
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
        let container = request.id.clone();
        let request = convert::create_request(request)?;
        let response: api::CreateTaskResponse = self.call(Method::Create, &request).await?;
        let (pid, token) = convert::created(&response);
        Ok(Created { handle: Handle { container, key: None, token }, pid })
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        let (id, exec_id) = convert::ids(process);
        let request = api::StartRequest { id, exec_id, ..Default::default() };
        let response: api::StartResponse = self.call(Method::Start, &request).await?;
        Ok(Pid(response.pid))
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        self.call_empty(Method::Exec, &convert::exec_request(request)).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        let (id, exec_id) = convert::ids(process);
        let request = api::StateRequest { id, exec_id, ..Default::default() };
        convert::state(self.call(Method::State, &request).await?)
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        let (id, exec_id) = convert::ids(process);
        let signal = u32::from(signal.number());
        let all = scope == KillScope::All;
        let request = api::KillRequest { id, exec_id, signal, all, ..Default::default() };
        self.call_empty(Method::Kill, &request).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let (id, exec_id) = convert::ids(process);
        let request = encode(&api::WaitRequest { id, exec_id, ..Default::default() })?;
        let answer = self.transport.call(Method::Wait, request, None).await?;
        let response: api::WaitResponse = decode(&answer)?;
        Ok(convert::exit(response.exit_status, response.exited_at.as_ref()))
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let (id, exec_id) = convert::ids(process);
        let request = api::DeleteRequest { id, exec_id, ..Default::default() };
        let response: api::DeleteResponse = self.call(Method::Delete, &request).await?;
        Ok(convert::exit(response.exit_status, response.exited_at.as_ref()))
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        let request = api::PauseRequest { id: container.to_string(), ..Default::default() };
        self.call_empty(Method::Pause, &request).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        let request = api::ResumeRequest { id: container.to_string(), ..Default::default() };
        self.call_empty(Method::Resume, &request).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        self.call_empty(Method::Update, &convert::update_request(request)).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        let request = api::StatsRequest { id: container.to_string(), ..Default::default() };
        let response: api::StatsResponse = self.call(Method::Stats, &request).await?;
        metrics::from_any(&response.stats)
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        let request = api::PidsRequest { id: container.to_string(), ..Default::default() };
        convert::pids(self.call(Method::Pids, &request).await?)
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        let (id, exec_id) = convert::ids(process);
        let request = api::ResizePtyRequest {
            id,
            exec_id,
            width: size.width.into(),
            height: size.height.into(),
            ..Default::default()
        };
        self.call_empty(Method::ResizePty, &request).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        let (id, exec_id) = convert::ids(process);
        let request = api::CloseIORequest { id, exec_id, stdin: true, ..Default::default() };
        self.call_empty(Method::CloseIO, &request).await
    }

    async fn attach(&self, _token: &Token) -> Result<Handle> {
        no_words_for("attach")
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        no_words_for(format_args!("dial to port {port} of sandbox {sandbox}"))
    }

    fn events(&self) -> Result<EventStream> {
        no_words_for("events")
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        let request = api::CheckpointTaskRequest {
            id: container.to_string(),
            path: directory.to_string_lossy().into_owned(),
            ..Default::default()
        };
        self.call_empty(Method::Checkpoint, &request).await
    }
}
