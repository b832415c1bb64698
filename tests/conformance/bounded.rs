//! A deadline on every call, whatever the runtime does.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, EventStream, Exec,
    ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result, Runtime,
    SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};

/// How long one call may take, a creation that has to make a template included.
pub(crate) const CALL: Duration = Duration::from_secs(60);

/// Another runtime, whose calls end.
pub(crate) struct Bounded(pub(crate) Arc<dyn Runtime>);

async fn bounded<T>(name: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| {
        // Apart from the deadlines that a runtime keeps itself, which a case may wait for.
        Err(Error::internal(format!("{name} has not ended after {CALL:?}")))
    })
}

#[async_trait]
impl Runtime for Bounded {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        bounded("create_sandbox", self.0.create_sandbox(request)).await
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        bounded("sandbox_status", self.0.sandbox_status(sandbox)).await
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        bounded("delete_sandbox", self.0.delete_sandbox(sandbox)).await
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        bounded("create_container", self.0.create_container(request)).await
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        bounded("start", self.0.start(process)).await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        bounded("exec", self.0.exec(request)).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        bounded("state", self.0.state(process)).await
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        bounded("kill", self.0.kill(process, signal, scope)).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        bounded("wait", self.0.wait(process)).await
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        bounded("delete", self.0.delete(process)).await
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        bounded("pause", self.0.pause(container)).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        bounded("resume", self.0.resume(container)).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        bounded("update", self.0.update(request)).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        bounded("stats", self.0.stats(container)).await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        bounded("pids", self.0.pids(container)).await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        bounded("resize_pty", self.0.resize_pty(process, size)).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        bounded("close_io", self.0.close_io(process)).await
    }

    async fn attach(&self, token: &Token) -> Result<Handle> {
        bounded("attach", self.0.attach(token)).await
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        bounded("dial", self.0.dial(sandbox, port)).await
    }

    fn events(&self) -> Result<EventStream> {
        self.0.events()
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        bounded("checkpoint", self.0.checkpoint(container, directory)).await
    }
}
