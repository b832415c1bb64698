//! Answers Task messages with a [`Runtime`].

use std::pin::Pin;
use std::sync::Arc;

use containerd_shim_protos::api;
use protobuf::well_known_types::empty::Empty;
use runtime_api::{ContainerId, ErrorKind, Key, Pid, ProcessRef, Result, Runtime};

use crate::Method;
use crate::convert::{self, decode, encode};
use crate::metrics::{self, CgroupVersion};

/// The answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The key of the container that was created, or by which it was reached.
    pub key: Option<Key>,
    /// The response.
    pub payload: Vec<u8>,
}

type ShutdownHook = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The Task service over a runtime, without a transport.
pub struct TaskServer {
    runtime: Arc<dyn Runtime>,
    metrics: CgroupVersion,
    on_shutdown: Option<ShutdownHook>,
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

    /// Calls `hook` for each Shutdown that arrives, and answers when its future has ended. What
    /// Shutdown means is for the owner of the process to decide.
    #[must_use]
    pub fn on_shutdown<F>(mut self, hook: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.on_shutdown = Some(Box::new(move || Box::pin(hook())));
        self
    }

    /// Answers one message: `payload` is the request of `method`, the answer its response.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed message, and what the runtime answers.
    pub async fn dispatch(&self, method: Method, payload: &[u8]) -> Result<Vec<u8>> {
        Ok(self.dispatch_by(None, method, payload).await?.payload)
    }

    /// As [`dispatch`](Self::dispatch), where the caller has the key of the container that the message
    /// names, and wants that of the one it creates.
    ///
    /// # Errors
    /// As [`dispatch`](Self::dispatch); `NotFound` for a key that is stale.
    pub async fn dispatch_by(
        &self,
        key: Option<Key>,
        method: Method,
        payload: &[u8],
    ) -> Result<Answer> {
        let payload = match method {
            Method::State => self.state(key, decode(payload)?).await,
            Method::Create => return self.create(decode(payload)?).await,
            Method::Start => self.start(key, decode(payload)?).await,
            Method::Delete => self.delete(key, decode(payload)?).await,
            Method::Pids => self.pids(key, decode(payload)?).await,
            Method::Pause => self.pause(key, decode(payload)?).await,
            Method::Resume => self.resume(key, decode(payload)?).await,
            Method::Checkpoint => self.checkpoint(key, decode(payload)?).await,
            Method::Kill => self.kill(key, decode(payload)?).await,
            Method::Exec => self.exec(key, decode(payload)?).await,
            Method::ResizePty => self.resize_pty(key, decode(payload)?).await,
            Method::CloseIO => self.close_io(key, decode(payload)?).await,
            Method::Update => self.update(key, decode(payload)?).await,
            Method::Wait => self.wait(key, decode(payload)?).await,
            Method::Stats => self.stats(key, decode(payload)?).await,
            Method::Connect => self.connect(decode(payload)?).await,
            Method::Shutdown => self.shutdown(decode(payload)?).await,
        };
        payload.map(|payload| Answer { key, payload })
    }

    /// A key that is stale must not reach another container of the same name.
    async fn container(&self, key: Option<Key>, id: String) -> Result<ContainerId> {
        let container = ContainerId::parse(id)?;
        if key.is_some() {
            let init = ProcessRef { container: container.clone(), exec: None, key };
            self.runtime.state(&init).await?;
        }
        Ok(container)
    }

    async fn state(&self, key: Option<Key>, request: api::StateRequest) -> Result<Vec<u8>> {
        let process = process(key, &request.id, &request.exec_id)?;
        let state = self.runtime.state(&process).await?;
        encode(&convert::state_response(&process, state))
    }

    async fn create(&self, request: api::CreateTaskRequest) -> Result<Answer> {
        let created = self.runtime.create_container(convert::create(request)?).await?;
        let payload = encode(&convert::created_response(created.pid, &created.handle.token))?;
        Ok(Answer { key: created.handle.key, payload })
    }

    async fn start(&self, key: Option<Key>, request: api::StartRequest) -> Result<Vec<u8>> {
        let pid = self.runtime.start(&process(key, &request.id, &request.exec_id)?).await?;
        encode(&api::StartResponse { pid: pid.0, ..Default::default() })
    }

    async fn delete(&self, key: Option<Key>, request: api::DeleteRequest) -> Result<Vec<u8>> {
        let process = process(key, &request.id, &request.exec_id)?;
        // A container that is still being created has no state, and is deleted all the same.
        let pid = self.runtime.state(&process).await.map_or(Pid(0), |state| state.pid);
        let exit = self.runtime.delete(&process).await?;
        let (exit_status, exited_at) = convert::exit_fields(exit);
        encode(&api::DeleteResponse { pid: pid.0, exit_status, exited_at, ..Default::default() })
    }

    async fn pids(&self, key: Option<Key>, request: api::PidsRequest) -> Result<Vec<u8>> {
        let processes = self.runtime.pids(&self.container(key, request.id).await?).await?;
        encode(&convert::pids_response(processes))
    }

    async fn pause(&self, key: Option<Key>, request: api::PauseRequest) -> Result<Vec<u8>> {
        self.runtime.pause(&self.container(key, request.id).await?).await?;
        empty()
    }

    async fn resume(&self, key: Option<Key>, request: api::ResumeRequest) -> Result<Vec<u8>> {
        self.runtime.resume(&self.container(key, request.id).await?).await?;
        empty()
    }

    async fn checkpoint(
        &self,
        key: Option<Key>,
        request: api::CheckpointTaskRequest,
    ) -> Result<Vec<u8>> {
        let container = self.container(key, request.id).await?;
        self.runtime.checkpoint(&container, request.path.as_ref()).await?;
        empty()
    }

    async fn kill(&self, key: Option<Key>, request: api::KillRequest) -> Result<Vec<u8>> {
        let (process, signal, scope) = convert::kill(&request)?;
        let process = ProcessRef { key, ..process };
        self.runtime.kill(&process, signal, scope).await?;
        empty()
    }

    async fn exec(&self, key: Option<Key>, request: api::ExecProcessRequest) -> Result<Vec<u8>> {
        let exec = convert::exec(request)?;
        self.container(key, exec.container.to_string()).await?;
        self.runtime.exec(exec).await?;
        empty()
    }

    async fn resize_pty(
        &self,
        key: Option<Key>,
        request: api::ResizePtyRequest,
    ) -> Result<Vec<u8>> {
        let process = process(key, &request.id, &request.exec_id)?;
        self.runtime.resize_pty(&process, convert::window_size(&request)?).await?;
        empty()
    }

    async fn close_io(&self, key: Option<Key>, request: api::CloseIORequest) -> Result<Vec<u8>> {
        let process = process(key, &request.id, &request.exec_id)?;
        if request.stdin {
            self.runtime.close_io(&process).await?;
        }
        empty()
    }

    async fn update(&self, key: Option<Key>, request: api::UpdateTaskRequest) -> Result<Vec<u8>> {
        let update = convert::update(request)?;
        self.container(key, update.container.to_string()).await?;
        self.runtime.update(update).await?;
        empty()
    }

    async fn wait(&self, key: Option<Key>, request: api::WaitRequest) -> Result<Vec<u8>> {
        let process = process(key, &request.id, &request.exec_id)?;
        let (exit_status, exited_at) = convert::exit_fields(self.runtime.wait(&process).await?);
        encode(&api::WaitResponse { exit_status, exited_at, ..Default::default() })
    }

    async fn stats(&self, key: Option<Key>, request: api::StatsRequest) -> Result<Vec<u8>> {
        let stats = self.runtime.stats(&self.container(key, request.id).await?).await?;
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

    async fn shutdown(&self, _request: api::ShutdownRequest) -> Result<Vec<u8>> {
        if let Some(hook) = &self.on_shutdown {
            hook().await;
        }
        empty()
    }
}

fn process(key: Option<Key>, id: &str, exec_id: &str) -> Result<ProcessRef> {
    Ok(ProcessRef { key, ..convert::process(id, exec_id)? })
}

fn empty() -> Result<Vec<u8>> {
    encode(&Empty::new())
}
