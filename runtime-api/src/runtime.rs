//! The contract.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

use async_trait::async_trait;

use crate::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, ErrorKind,
    EventStream, Exec, ExitStatus, Handle, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState,
    Result, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};

/// A runtime that keeps containers in sandboxes.
///
/// # Rules for every operation
///
/// * **Names, not processes.** Sandboxes and containers are reached by id (or by the key in their
///   [`Handle`]) and by nothing else. A [`Pid`] is told to daemons and is never asked for.
/// * **Unknown ids** answer `NotFound`. A key that is stale answers `NotFound` even when the id
///   would be found.
/// * **Operations that are not there** answer `Unimplemented`, see [`Capabilities`].
/// * **A dead VM** ends all its processes with exit code 137. After that `wait`, `state` and
///   `delete` work as after any exit; what would need the guest answers as for a stopped process.
/// * **Deadlines.** Every operation but [`wait`](Self::wait) ends by itself: with `Unavailable` when
///   the guest is gone, with `DeadlineExceeded` when it does not answer in time.
/// * **Dropping the future** of an operation abandons the wait, never the work: a creation whose
///   caller has left still either completes or cleans up.
/// * **Failure leaves nothing.** A creation that fails has removed what it made, and its id is free.
/// * **Order.** Operations on different processes run concurrently. Operations on one process take
///   effect in the order in which their futures were first polled; one that the state forbids while
///   another is under way answers `FailedPrecondition`.
/// * **Latch, then announce.** The state changes first, then the event is sent, then waiters and the
///   operation's own caller are answered.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// What this runtime can do. It never changes while the runtime is open.
    fn capabilities(&self) -> Capabilities;

    /// Creates a sandbox without containers; it lives until it is deleted.
    ///
    /// State: unknown → [`SandboxState::Ready`](crate::SandboxState::Ready). Not idempotent.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for options or annotations that make no sense;
    /// `Unavailable` when the VM does not start; `DeadlineExceeded` when its agent does not answer.
    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid>;

    /// Tells the state of a sandbox.
    ///
    /// # Errors
    /// `NotFound`.
    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus>;

    /// Ends the VM of a sandbox and forgets it.
    ///
    /// State: any → unknown. Idempotence: the second call answers `NotFound`.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it holds a container that has not been deleted.
    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()>;

    /// Creates a container in a sandbox; its init process is ready to start.
    ///
    /// State: unknown → `Created`. Event: `Create`. Everything that can be found wrong without
    /// running the process is found here: a missing executable, a working directory that is no
    /// directory, a mount without a source.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a broken bundle; `NotFound` when the named sandbox, the
    /// bundle, a mount source or the executable is missing; `Cancelled` when a deletion came in
    /// between; `Unavailable` and `DeadlineExceeded` as for [`create_sandbox`](Self::create_sandbox).
    async fn create_container(&self, request: CreateContainer) -> Result<Created>;

    /// Starts a created process: the init of a container or an exec.
    ///
    /// State: `Created` → `Running`. Event: `Start` or `ExecStarted`, always before the `Exit` of
    /// the same process.
    ///
    /// # Errors
    /// `FailedPrecondition` unless `Created`, and for an exec whose container has stopped.
    async fn start(&self, process: &ProcessRef) -> Result<Pid>;

    /// Adds a process to a container; [`start`](Self::start) runs it.
    ///
    /// State of the exec: unknown → `Created`. Event: `ExecAdded`. The id is reserved at once and
    /// free again after [`delete`](Self::delete).
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a broken process; `FailedPrecondition` when the
    /// container has stopped or is paused.
    async fn exec(&self, request: Exec) -> Result<()>;

    /// Tells the state of a process. It never asks the guest and answers at once.
    ///
    /// # Errors
    /// `NotFound`.
    async fn state(&self, process: &ProcessRef) -> Result<ProcessState>;

    /// Sends a signal.
    ///
    /// A created process that is killed with SIGKILL becomes `Stopped` with 137, as if it had run.
    /// Signal 0 only asks whether the process lives. The rules of a pid namespace hold
    /// (pid_namespaces(7)): the init process does not see signals that it does not handle.
    ///
    /// # Errors
    /// `NotFound` when the process has stopped; `FailedPrecondition` for an exec that was not
    /// started.
    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()>;

    /// Waits for the end of a process: before, during or after it, by any number of callers.
    ///
    /// It has no deadline of its own. By the time it returns, the output of the process has been
    /// written to its endpoints, for as long as their readers make progress.
    ///
    /// # Errors
    /// `NotFound`, also when the process is deleted meanwhile.
    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus>;

    /// Deletes a stopped process and gives its id back.
    ///
    /// State: `Stopped` (or `Created`, for an exec or an init that never ran) → unknown. Event:
    /// `Delete`, for the init of a container. Deleting an init deletes the container with all its
    /// execs, mounts and files, and its sandbox if that was created with a container and this was
    /// its last one. Idempotence: the second call answers `NotFound`.
    ///
    /// # Errors
    /// `FailedPrecondition` while the process runs.
    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus>;

    /// Freezes all processes of a container.
    ///
    /// State: `Running` → `Paused`. Event: `Paused`.
    ///
    /// # Errors
    /// `FailedPrecondition` unless `Running`.
    async fn pause(&self, container: &ContainerId) -> Result<()>;

    /// Thaws all processes of a container.
    ///
    /// State: `Paused` → `Running`. Event: `Resumed`.
    ///
    /// # Errors
    /// `FailedPrecondition` unless `Paused`.
    async fn resume(&self, container: &ContainerId) -> Result<()>;

    /// Changes the limits of a container; what the request leaves out stays.
    ///
    /// # Errors
    /// `InvalidArgument` for what is malformed or cannot be changed; `FailedPrecondition` when
    /// `Stopped`.
    async fn update(&self, request: Update) -> Result<()>;

    /// Tells what a container uses. Valid until it is deleted, also when it has stopped.
    ///
    /// # Errors
    /// `NotFound`.
    async fn stats(&self, container: &ContainerId) -> Result<Stats>;

    /// Lists the living processes of a container: never empty while it is created or running, empty
    /// when it has stopped.
    ///
    /// # Errors
    /// `NotFound`.
    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>>;

    /// Sets the size of a process's terminal. Without a terminal it does nothing.
    ///
    /// # Errors
    /// `FailedPrecondition` when the process has stopped.
    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()>;

    /// Ends the standard input of a process: what is queued is delivered, then it reads the end of
    /// the file. Allowed before [`start`](Self::start). Idempotent.
    ///
    /// # Errors
    /// `NotFound`.
    async fn close_io(&self, process: &ProcessRef) -> Result<()>;

    /// Comes back to a container after a restart of the caller, by the token of its [`Handle`].
    ///
    /// # Errors
    /// `NotFound` when its VM is gone, its exit unknown; what was left of it has been removed.
    /// `InvalidArgument` for bytes that are no token of this runtime.
    async fn attach(&self, token: &Token) -> Result<Handle>;

    /// Connects to a TCP port inside a sandbox, also one that is bound to its loopback address.
    ///
    /// The answer is one end of a connected stream socket; shutdown(2) of one direction arrives at
    /// the other end.
    ///
    /// # Errors
    /// `Unavailable` when nothing listens on the port.
    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd>;

    /// The events of this runtime from its opening on. There is one queue and one reader of it.
    ///
    /// # Errors
    /// `FailedPrecondition` when the stream has been taken.
    fn events(&self) -> Result<EventStream>;

    /// Saves the state of a container.
    ///
    /// # Errors
    /// `Unimplemented` unless a runtime overrides it.
    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        let _ = directory;
        Err(Error::unimplemented(format!("checkpoint of container {container}")))
    }

    /// Ends a process: SIGTERM, and SIGKILL when `deadline` completes. It succeeds when the process
    /// has ended, also when it had ended before.
    ///
    /// The deadline is a future because this crate has no clock: pass the executor's sleep.
    ///
    /// # Errors
    /// `NotFound`.
    async fn stop(&self, process: &ProcessRef, deadline: Deadline) -> Result<ExitStatus> {
        let exit = self.wait(process);
        ended_already(self.kill(process, Signal::TERM, KillScope::Process).await)?;
        match first(exit, deadline).await {
            First::Work(exit) => exit,
            First::Deadline => {
                ended_already(self.kill(process, Signal::KILL, KillScope::All).await)?;
                self.wait(process).await
            }
        }
    }

    /// Runs an additional process to its end and deletes it; kills it when `deadline` completes.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it had to be killed; the errors of [`exec`](Self::exec) and
    /// [`start`](Self::start), after which the id is free again.
    async fn exec_sync(&self, request: Exec, deadline: Deadline) -> Result<ExitStatus> {
        let process = ProcessRef::exec(request.container.clone(), request.id.clone());
        self.exec(request).await?;
        let outcome = match self.start(&process).await {
            Ok(_) => match first(self.wait(&process), deadline).await {
                First::Work(exit) => exit,
                First::Deadline => {
                    ended_already(self.kill(&process, Signal::KILL, KillScope::Process).await)?;
                    self.wait(&process).await?;
                    Err(Error::deadline_exceeded(format!("{process} was killed at its deadline")))
                }
            },
            Err(error) => Err(error),
        };
        match self.delete(&process).await {
            Ok(_) => outcome,
            Err(error) => outcome.and(Err(error)),
        }
    }
}

/// A point in time, as a future that completes then.
pub type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

/// To kill what has already ended is to have succeeded.
fn ended_already(killed: Result<()>) -> Result<()> {
    match killed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

enum First<T> {
    Work(T),
    Deadline,
}

/// Waits for the work or the deadline; the work wins when both are there.
async fn first<T>(mut work: impl Future<Output = T> + Unpin, mut deadline: Deadline) -> First<T> {
    poll_fn(|context| match Pin::new(&mut work).poll(context) {
        Poll::Ready(done) => Poll::Ready(First::Work(done)),
        Poll::Pending => deadline.as_mut().poll(context).map(|()| First::Deadline),
    })
    .await
}
