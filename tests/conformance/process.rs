//! The processes of a case: containers and execs, with short words for what is asked of them.

use std::time::Duration;

use runtime_api::{
    ContainerId, CreateContainer, Created, Exec, ExecId, ExitStatus, Json, KillScope, ProcessRef,
    ProcessState, Result, Signal, Status, Stdio, WindowSize,
};
use serde_json::Value;

use crate::context::Context;
use crate::streams::{Streams, Wanted};

/// A process that was created, with this end of its streams.
pub(crate) struct Process<'a> {
    pub(crate) context: &'a Context,
    pub(crate) at: ProcessRef,
    pub(crate) streams: Streams,
    /// Where they go, as the runtime was told.
    pub(crate) stdio: Stdio,
    /// What was asked for; `None` for an exec.
    pub(crate) request: Option<CreateContainer>,
    /// What the creation answered; `None` for an exec.
    pub(crate) created: Option<Created>,
}

/// How a process ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: u32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Process<'_> {
    pub(crate) fn container(&self) -> &ContainerId {
        &self.at.container
    }

    pub(crate) async fn start(&self) -> Result<()> {
        self.context.runtime().start(&self.at).await.map(drop)
    }

    pub(crate) async fn wait(&self) -> Result<ExitStatus> {
        self.context.runtime().wait(&self.at).await
    }

    pub(crate) async fn state(&self) -> Result<ProcessState> {
        self.context.runtime().state(&self.at).await
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        self.state().await.map(|state| state.status)
    }

    pub(crate) async fn kill(&self, signal: u32) -> Result<()> {
        let signal = Signal::parse(signal).unwrap();
        self.context.runtime().kill(&self.at, signal, KillScope::Process).await
    }

    pub(crate) async fn kill_all(&self, signal: u32) -> Result<()> {
        let signal = Signal::parse(signal).unwrap();
        self.context.runtime().kill(&self.at, signal, KillScope::All).await
    }

    pub(crate) async fn delete(&self) -> Result<ExitStatus> {
        self.context.runtime().delete(&self.at).await
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        self.context.runtime().pause(self.container()).await
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        self.context.runtime().resume(self.container()).await
    }

    pub(crate) async fn close_io(&self) -> Result<()> {
        self.context.runtime().close_io(&self.at).await
    }

    /// Ends the input as clients do: their own end goes, then the runtime is told.
    pub(crate) async fn end_input(&mut self) -> Result<()> {
        drop(self.streams.input.take());
        self.close_io().await
    }

    pub(crate) async fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.context.runtime().resize_pty(&self.at, WindowSize { width, height }).await
    }

    /// Ends a process that runs and deletes it.
    pub(crate) async fn dispose(&self) {
        self.kill_all(9).await.unwrap_or_else(|error| panic!("kill: {}", error.chain()));
        self.wait().await.unwrap_or_else(|error| panic!("wait: {}", error.chain()));
        self.delete().await.unwrap_or_else(|error| panic!("delete: {}", error.chain()));
    }

    /// Everything that it wrote, when it has ended.
    pub(crate) async fn out(&mut self) -> Vec<u8> {
        self.streams.out.all().await
    }

    /// Starts it, waits for its end, deletes it.
    pub(crate) async fn run(&mut self) -> Ran {
        self.start().await.unwrap_or_else(|error| panic!("start: {}", error.chain()));
        self.end().await
    }

    /// Waits for the end of a process that runs, and deletes it.
    pub(crate) async fn end(&mut self) -> Ran {
        let exit = self.wait().await.unwrap_or_else(|error| panic!("wait: {}", error.chain()));
        let deleted = self.delete().await;
        let deleted = deleted.unwrap_or_else(|error| panic!("delete: {}", error.chain()));
        assert_eq!(deleted.code, exit.code, "wait and delete tell of different exits");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let out = text(self.streams.out.all().await);
        let err = match &mut self.streams.err {
            Some(err) => text(err.all().await),
            None => String::new(),
        };
        Ran { code: exit.code, out, err }
    }

    /// Asks for an exec in this container.
    pub(crate) async fn exec_with(
        &self,
        id: &str,
        process: Value,
        wanted: Wanted,
    ) -> Result<Process<'_>> {
        let (streams, stdio) = self.context.streams(wanted);
        let id = ExecId::parse(id).unwrap();
        let at = ProcessRef::exec(self.container().clone(), id.clone());
        let request = Exec {
            container: self.container().clone(),
            id,
            process: Json(process.to_string().into_bytes()),
            stdio: stdio.clone(),
        };
        self.context.runtime().exec(request).await?;
        Ok(Process { context: self.context, at, streams, stdio, request: None, created: None })
    }

    /// An exec of these words, without input or terminal.
    pub(crate) async fn exec(&self, id: &str, args: &[&str]) -> Result<Process<'_>> {
        self.exec_with(id, conformance::process(args), Wanted::default()).await
    }

    /// Waits until it has reached a state.
    pub(crate) async fn becomes(&self, status: Status) {
        for _ in 0..1000 {
            if self.status().await.is_ok_and(|now| now == status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} has not become {status:?}: {:?}", self.at, self.status().await);
    }
}
