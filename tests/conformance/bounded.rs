//! What is between a case and its runtime: a deadline on every call, whatever the runtime does, and
//! the place where faults are put to try the cases.

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

use crate::fault::Faults;

/// How long one call may take, a creation that has to make a template included.
pub(crate) const CALL: Duration = Duration::from_secs(60);

/// Another runtime, whose calls end.
pub(crate) struct Bounded {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) faults: Faults,
}

async fn bounded<T>(name: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| {
        // Apart from the deadlines that a runtime keeps itself, which a case may wait for.
        Err(Error::internal(format!("{name} has not ended after {CALL:?}")))
    })
}

#[async_trait]
impl Runtime for Bounded {
    fn capabilities(&self) -> Capabilities {
        self.runtime.capabilities()
    }

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        bounded("create_sandbox", self.runtime.create_sandbox(request)).await
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        bounded("sandbox_status", self.runtime.sandbox_status(sandbox)).await
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        bounded("delete_sandbox", self.runtime.delete_sandbox(sandbox)).await
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        self.faults.creation(&request);
        bounded("create_container", self.runtime.create_container(request)).await
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        bounded("start", self.runtime.start(process)).await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        bounded("exec", self.runtime.exec(request)).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        self.faults.answer(bounded("state", self.runtime.state(process)).await)
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        bounded("kill", self.runtime.kill(process, signal, scope)).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let exit = bounded("wait", self.runtime.wait(process)).await?;
        Ok(self.faults.exit(exit))
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let exit = bounded("delete", self.runtime.delete(process)).await?;
        self.faults.deletion();
        Ok(self.faults.exit(exit))
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        bounded("pause", self.runtime.pause(container)).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        bounded("resume", self.runtime.resume(container)).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        bounded("update", self.runtime.update(request)).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        bounded("stats", self.runtime.stats(container)).await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        bounded("pids", self.runtime.pids(container)).await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        bounded("resize_pty", self.runtime.resize_pty(process, size)).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        bounded("close_io", self.runtime.close_io(process)).await
    }

    async fn attach(&self, token: &Token) -> Result<Handle> {
        bounded("attach", self.runtime.attach(token)).await
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        bounded("dial", self.runtime.dial(sandbox, port)).await
    }

    fn events(&self) -> Result<EventStream> {
        Ok(self.faults.events(self.runtime.events()?))
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        bounded("checkpoint", self.runtime.checkpoint(container, directory)).await
    }
}
