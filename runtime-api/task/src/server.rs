//! Answers Task messages with a [`Runtime`].

use std::sync::Arc;

use containerd_shim_protos::api;
use protobuf::well_known_types::empty::Empty;
use runtime_api::{ContainerId, ErrorKind, Pid, Result, Runtime};

use crate::Method;
use crate::convert::{self, decode, encode};
use crate::metrics::{self, CgroupVersion};

/// The Task service over a runtime, without a transport.
pub struct TaskServer {
    runtime: Arc<dyn Runtime>,
    metrics: CgroupVersion,
    on_shutdown: Option<Box<dyn Fn() + Send + Sync>>,
}

impl TaskServer {
    /// Serves `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, metrics: CgroupVersion::default(), on_shutdown: None }
    }

    /// Answers Stats with the message of this cgroup version instead of v2's.
    #[must_use]
    pub fn metrics(mut self, version: CgroupVersion) -> Self {
        self.metrics = version;
        self
    }

    /// Calls `hook` for each Shutdown that arrives. The hook must return at once; what Shutdown means
    /// is for the owner of the process to decide.
    #[must_use]
    pub fn on_shutdown(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_shutdown = Some(Box::new(hook));
        self
    }

    /// Answers one message: `payload` is the request of `method`, the answer its response.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed message, and what the runtime answers.
    pub async fn dispatch(&self, method: Method, payload: &[u8]) -> Result<Vec<u8>> {
        match method {
            Method::State => self.state(decode(payload)?).await,
            Method::Create => self.create(decode(payload)?).await,
            Method::Start => self.start(decode(payload)?).await,
            Method::Delete => self.delete(decode(payload)?).await,
            Method::Pids => self.pids(decode(payload)?).await,
            Method::Pause => self.pause(decode(payload)?).await,
            Method::Resume => self.resume(decode(payload)?).await,
            Method::Checkpoint => self.checkpoint(decode(payload)?).await,
            Method::Kill => self.kill(decode(payload)?).await,
            Method::Exec => self.exec(decode(payload)?).await,
            Method::ResizePty => self.resize_pty(decode(payload)?).await,
            Method::CloseIO => self.close_io(decode(payload)?).await,
            Method::Update => self.update(decode(payload)?).await,
            Method::Wait => self.wait(decode(payload)?).await,
            Method::Stats => self.stats(decode(payload)?).await,
            Method::Connect => self.connect(decode(payload)?).await,
            Method::Shutdown => self.shutdown(decode(payload)?),
        }
    }

    async fn state(&self, request: api::StateRequest) -> Result<Vec<u8>> {
        let process = convert::process(&request.id, &request.exec_id)?;
        let state = self.runtime.state(&process).await?;
        encode(&convert::state_response(&process, state))
    }

    async fn create(&self, request: api::CreateTaskRequest) -> Result<Vec<u8>> {
        let created = self.runtime.create_container(convert::create(request)?).await?;
        encode(&api::CreateTaskResponse { pid: created.pid.0, ..Default::default() })
    }

    async fn start(&self, request: api::StartRequest) -> Result<Vec<u8>> {
        let pid = self.runtime.start(&convert::process(&request.id, &request.exec_id)?).await?;
        encode(&api::StartResponse { pid: pid.0, ..Default::default() })
    }

    async fn delete(&self, request: api::DeleteRequest) -> Result<Vec<u8>> {
        let process = convert::process(&request.id, &request.exec_id)?;
        // A container that is still being created has no state, and is deleted all the same.
        let pid = self.runtime.state(&process).await.map_or(Pid(0), |state| state.pid);
        let exit = self.runtime.delete(&process).await?;
        let (exit_status, exited_at) = convert::exit_fields(exit);
        encode(&api::DeleteResponse { pid: pid.0, exit_status, exited_at, ..Default::default() })
    }

    async fn pids(&self, request: api::PidsRequest) -> Result<Vec<u8>> {
        let processes = self.runtime.pids(&ContainerId::parse(request.id)?).await?;
        encode(&convert::pids_response(processes))
    }

    async fn pause(&self, request: api::PauseRequest) -> Result<Vec<u8>> {
        self.runtime.pause(&ContainerId::parse(request.id)?).await?;
        empty()
    }

    async fn resume(&self, request: api::ResumeRequest) -> Result<Vec<u8>> {
        self.runtime.resume(&ContainerId::parse(request.id)?).await?;
        empty()
    }

    async fn checkpoint(&self, request: api::CheckpointTaskRequest) -> Result<Vec<u8>> {
        let container = ContainerId::parse(request.id)?;
        self.runtime.checkpoint(&container, request.path.as_ref()).await?;
        empty()
    }

    async fn kill(&self, request: api::KillRequest) -> Result<Vec<u8>> {
        let (process, signal, scope) = convert::kill(&request)?;
        self.runtime.kill(&process, signal, scope).await?;
        empty()
    }

    async fn exec(&self, request: api::ExecProcessRequest) -> Result<Vec<u8>> {
        self.runtime.exec(convert::exec(request)?).await?;
        empty()
    }

    async fn resize_pty(&self, request: api::ResizePtyRequest) -> Result<Vec<u8>> {
        let process = convert::process(&request.id, &request.exec_id)?;
        self.runtime.resize_pty(&process, convert::window_size(&request)?).await?;
        empty()
    }

    async fn close_io(&self, request: api::CloseIORequest) -> Result<Vec<u8>> {
        let process = convert::process(&request.id, &request.exec_id)?;
        if request.stdin {
            self.runtime.close_io(&process).await?;
        }
        empty()
    }

    async fn update(&self, request: api::UpdateTaskRequest) -> Result<Vec<u8>> {
        self.runtime.update(convert::update(request)?).await?;
        empty()
    }

    async fn wait(&self, request: api::WaitRequest) -> Result<Vec<u8>> {
        let process = convert::process(&request.id, &request.exec_id)?;
        let (exit_status, exited_at) = convert::exit_fields(self.runtime.wait(&process).await?);
        encode(&api::WaitResponse { exit_status, exited_at, ..Default::default() })
    }

    async fn stats(&self, request: api::StatsRequest) -> Result<Vec<u8>> {
        let stats = self.runtime.stats(&ContainerId::parse(request.id)?).await?;
        let stats = Some(metrics::to_any(&stats, self.metrics)?).into();
        encode(&api::StatsResponse { stats, ..Default::default() })
    }

    /// Connect is a daemon's health check after its restart: it succeeds for unknown ids too.
    async fn connect(&self, request: api::ConnectRequest) -> Result<Vec<u8>> {
        let task = match convert::process(&request.id, "") {
            Ok(process) => match self.runtime.state(&process).await {
                Ok(state) => state.pid,
                Err(error) if error.kind() == ErrorKind::NotFound => Pid(0),
                Err(error) => return Err(error),
            },
            Err(_) => Pid(0),
        };
        encode(&api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    fn shutdown(&self, _request: api::ShutdownRequest) -> Result<Vec<u8>> {
        if let Some(hook) = &self.on_shutdown {
            hook();
        }
        empty()
    }
}

fn empty() -> Result<Vec<u8>> {
    encode(&Empty::new())
}
