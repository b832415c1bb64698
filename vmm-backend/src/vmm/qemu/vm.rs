//! One QEMU process from its start to its end.
//!
//! ```text
//!  spawn ── QMP greets ──► supervised ── keep() ──► kept ── drop ──► detached
//!    │                          │                    │
//!    └── drop: kill, reap, unlink the sockets ◄── kill()
//! ```
//!
//! One task owns the control connection and both outputs; it ends with the process and latches its
//! [`VmExit`].

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::arguments::{AGENT_PORT, Sockets, Start, arguments};
use super::diagnosis;
use super::output::{Tail, stderr_pipe};
use super::process::{Descriptors, KILL_DEADLINE, Network, Process, Status, Ties};
use super::qmp::{self, Connection, Event, Qmp};
use super::tsc;
use crate::vmm::{ExitReason, NetworkNamespace, Vm, VmExit, VmSpec, VmmError};

/// How long the outputs of a dead process may take to end; what they hold is in the kernel's
/// buffers already.
const DRAIN_DEADLINE: Duration = Duration::from_millis(100);

/// A process, its sockets, and what happens to them when they are dropped.
pub(super) struct Machine {
    pub(super) process: Arc<Process>,
    pub(super) sockets: Sockets,
    /// Whether the process lives on when this is dropped.
    pub(super) kept: AtomicBool,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            self.process.kill_and_reap();
        }
        if self.process.reap().is_some() {
            self.sockets.remove();
        }
    }
}

/// What the machine has said and done so far.
#[derive(Default)]
pub(super) struct Outputs {
    console: Tail,
    stderr: Tail,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    agent_open: bool,
    running: bool,
    reason: Option<ExitReason>,
    exit: Option<VmExit>,
}

/// A machine that its supervisor follows.
pub(super) struct QemuVm {
    machine: Machine,
    qmp: Qmp,
    outputs: Arc<Outputs>,
    progress: watch::Receiver<Progress>,
    supervisor: JoinHandle<()>,
}

/// Boots: every early return and a drop of the future end the process by [`Machine`]'s destructor.
pub(super) async fn boot(program: &Path, spec: &VmSpec) -> Result<QemuVm, VmmError> {
    let outputs = Arc::default();
    let booting = async {
        let vm = launch(program, spec, Start::Boot, &outputs).await?;
        vm.agent_opened(spec).await?;
        Ok(vm)
    };
    within_deadline(spec, &outputs, booting).await
}

/// Waits for a boot or a restoration, until the deadline that `spec` sets.
pub(super) async fn within_deadline<T>(
    spec: &VmSpec,
    outputs: &Outputs,
    work: impl Future<Output = Result<T, VmmError>>,
) -> Result<T, VmmError> {
    timeout(spec.boot_deadline, work).await.unwrap_or_else(|_| {
        Err(VmmError::BootTimeout {
            deadline: spec.boot_deadline,
            detail: diagnosis::last_words(&outputs.console, &outputs.stderr),
        })
    })
}

/// Starts the process and takes control of it.
pub(super) async fn launch(
    program: &Path,
    spec: &VmSpec,
    start: Start<'_>,
    outputs: &Arc<Outputs>,
) -> Result<QemuVm, VmmError> {
    let (machine, stderr) = spawn(program, spec, start).await?;
    let (qmp, connection, console) = match control(program, &machine.sockets).await? {
        Ok(connected) => connected,
        Err(lost) => {
            log::debug!("QEMU closed its control connection: {lost}");
            // It is about to end; if it does not, the caller's deadline strikes.
            let collect = outputs.stderr.collect(stderr);
            let (status, ()) = tokio::join!(machine.process.exited(), collect);
            let reason = reason(None, status);
            return Err(diagnosis::died(spec, reason, &outputs.console, &outputs.stderr));
        }
    };
    let controlled = (qmp, connection, console);
    Ok(QemuVm::supervised(machine, controlled, Some(stderr), Arc::clone(outputs)))
}

/// Starts the process. While it boots it must not outlive this future, whatever the spec says about
/// later.
async fn spawn(
    program: &Path,
    spec: &VmSpec,
    start: Start<'_>,
) -> Result<(Machine, pipe::Receiver), VmmError> {
    let sockets = Sockets::new(&spec.directory)?;
    let host = |attempt: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| VmmError::Host { attempt, path, source }
    };
    let network = match &spec.network {
        NetworkNamespace::New => Network::New,
        NetworkNamespace::Existing(path) => Network::Existing(
            File::open(path).map_err(host("open network namespace", path))?.into(),
        ),
    };
    let tsc_khz = match start {
        Start::Boot | Start::BootTemplate { .. } => tsc::khz().await,
        // It knows from its template.
        Start::Clone { .. } => None,
    };
    sockets.remove();
    // Bound here and inherited as stdin, the way inetd does: connecting succeeds at once, without
    // polling for a socket that QEMU makes some time after its start.
    let listener = UnixListener::bind(&sockets.qmp).map_err(host("bind", &sockets.qmp))?;
    let (stderr, inherited) = stderr_pipe().map_err(host("make a pipe for", program))?;
    let descriptors = Descriptors { stdin: listener.into(), stderr: inherited };
    let line = arguments(spec, start, &sockets, tsc_khz);
    let ties = Ties { lifetime: spec.lifetime, network };
    match Process::spawn(program, &line, descriptors, ties) {
        Ok(process) => {
            let process = Arc::new(process);
            Ok((Machine { process, sockets, kept: AtomicBool::new(false) }, stderr))
        }
        Err(error) => {
            sockets.remove();
            Err(host("start", program)(error))
        }
    }
}

/// The connections by which a machine is controlled: commands, answers, and its console.
pub(super) type Controlled = (Qmp, Connection, UnixStream);

/// Connects to the control socket and the console. The inner error means that QEMU went away.
pub(super) async fn control(
    program: &Path,
    sockets: &Sockets,
) -> Result<io::Result<Controlled>, VmmError> {
    let connect = async {
        let (qmp, connection, version) =
            qmp::handshake(UnixStream::connect(&sockets.qmp).await?).await?;
        io::Result::Ok((qmp, connection, UnixStream::connect(&sockets.console).await?, version))
    };
    match connect.await {
        Ok((qmp, connection, console, version)) => {
            version.check(program)?;
            Ok(Ok((qmp, connection, console)))
        }
        Err(lost) => Ok(Err(lost)),
    }
}

/// Follows the machine to its end.
async fn supervise(
    process: Arc<Process>,
    connection: Connection,
    (console, stderr): (UnixStream, Option<pipe::Receiver>),
    outputs: Arc<Outputs>,
    progress: watch::Sender<Progress>,
) {
    // The errors of a machine whose owner has gone, go nowhere.
    let errors = async {
        if let Some(stderr) = stderr {
            outputs.stderr.collect(stderr).await;
        }
    };
    let follow = async {
        tokio::join!(
            connection.run(|event| progress.send_modify(|progress| progress.note(&event))),
            outputs.console.collect(console),
            errors,
        );
    };
    tokio::pin!(follow);
    let status = tokio::select! {
        status = process.exited() => {
            // The reason may still be in the connection's buffer.
            let _ = timeout(DRAIN_DEADLINE, &mut follow).await;
            status
        }
        () = &mut follow => process.exited().await,
    };
    progress.send_modify(|progress| {
        let reason = reason(progress.reason, status);
        let output = format!("{}{}", outputs.console.text(), outputs.stderr.text());
        progress.exit = Some(VmExit { reason, output });
    });
}

/// The events know more than the status: QEMU exits with 0 after a panic as well.
fn reason(announced: Option<ExitReason>, status: Status) -> ExitReason {
    announced.unwrap_or(match status {
        Status::Exited(0) => ExitReason::Shutdown,
        Status::Exited(code) => ExitReason::Crashed { code },
        Status::Signaled(signal) => ExitReason::Killed { signal },
        Status::Lost => ExitReason::Unknown,
    })
}

impl Progress {
    fn note(&mut self, event: &Event) {
        match event {
            Event::PortChanged { id, open } if id == AGENT_PORT => self.agent_open = *open,
            Event::PortChanged { .. } => {}
            Event::Running => self.running = true,
            Event::GuestPanicked => self.reason = Some(ExitReason::GuestPanicked),
            // The first cause counts: a panic is followed by a shutdown.
            Event::Shutdown { reason } => {
                self.reason.get_or_insert(match reason.as_str() {
                    "guest-panic" => ExitReason::GuestPanicked,
                    "guest-reset" => ExitReason::GuestReset,
                    _ => ExitReason::Shutdown,
                });
            }
        }
    }
}

impl QemuVm {
    pub(super) fn supervised(
        machine: Machine,
        (qmp, connection, console): Controlled,
        stderr: Option<pipe::Receiver>,
        outputs: Arc<Outputs>,
    ) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let process = Arc::clone(&machine.process);
        let output = (console, stderr);
        let following = supervise(process, connection, output, Arc::clone(&outputs), sender);
        Self { machine, qmp, outputs, progress, supervisor: tokio::spawn(following) }
    }

    async fn wait_for(&self, condition: impl Fn(&Progress) -> bool) -> Progress {
        let mut progress = self.progress.clone();
        match progress.wait_for(|now| condition(now)).await {
            Ok(now) => now.clone(),
            // The supervisor was dropped together with its runtime.
            Err(_) => {
                let exit = VmExit { reason: ExitReason::Unknown, output: String::new() };
                Progress { exit: Some(exit), ..Progress::default() }
            }
        }
    }

    /// Waits until the agent has opened its side of the channel.
    pub(super) async fn agent_opened(&self, spec: &VmSpec) -> Result<(), VmmError> {
        self.comes_to(spec, |progress| progress.agent_open).await
    }

    /// Waits until the processors run.
    pub(super) async fn runs(&self, spec: &VmSpec) -> Result<(), VmmError> {
        self.comes_to(spec, |progress| progress.running).await
    }

    async fn comes_to(
        &self,
        spec: &VmSpec,
        condition: impl Fn(&Progress) -> bool,
    ) -> Result<(), VmmError> {
        let now = self.wait_for(|progress| condition(progress) || progress.exit.is_some()).await;
        match now.exit {
            None => Ok(()),
            Some(exit) => {
                let Outputs { console, stderr } = &*self.outputs;
                Err(diagnosis::died(spec, exit.reason, console, stderr))
            }
        }
    }

    /// Executes a command of the control protocol.
    pub(super) async fn command(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, VmmError> {
        let answer = self.qmp.execute(command, arguments).await;
        answer.map_err(|error| VmmError::Control { command, detail: error.to_string() })
    }

    /// Gives the process a file, which commands then find by `name`.
    pub(super) async fn give(&self, name: &str, file: File) -> Result<(), VmmError> {
        let given = self.qmp.give(name, file.into()).await;
        given.map_err(|error| VmmError::Control { command: "getfd", detail: error.to_string() })
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> u32 {
        self.machine.process.pid()
    }

    fn keep(&self) {
        self.machine.kept.store(true, Ordering::Relaxed);
    }

    async fn connect(&self) -> Result<UnixStream, VmmError> {
        let path = &self.machine.sockets.agent;
        UnixStream::connect(path)
            .await
            .map_err(|source| VmmError::Channel { path: path.clone(), source })
    }

    async fn hold(&self, name: &str, file: File) -> Result<(), VmmError> {
        self.give(name, file).await
    }

    async fn let_go(&self, name: &str) -> Result<(), VmmError> {
        self.command("closefd", json!({ "fdname": name })).await.map(drop)
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.command("stop", json!({})).await.map(drop)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.command("cont", json!({})).await.map(drop)
    }

    async fn exited(&self) -> VmExit {
        let unknown = VmExit { reason: ExitReason::Unknown, output: String::new() };
        self.wait_for(|progress| progress.exit.is_some()).await.exit.unwrap_or(unknown)
    }

    async fn kill(&self) -> Result<(), VmmError> {
        self.machine.process.kill();
        if timeout(KILL_DEADLINE, self.exited()).await.is_err() {
            return Err(VmmError::Unkillable { pid: self.pid(), waited: KILL_DEADLINE });
        }
        self.machine.sockets.remove();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(events: &[Event], status: Status) -> ExitReason {
        let mut progress = Progress::default();
        for event in events {
            progress.note(event);
        }
        reason(progress.reason, status)
    }

    #[test]
    fn events_tell_why_and_the_status_does_where_there_are_none() {
        let shutdown = |reason: &str| Event::Shutdown { reason: reason.into() };
        let panic = [Event::GuestPanicked, shutdown("guest-panic")];
        assert_eq!(ended(&panic, Status::Exited(0)), ExitReason::GuestPanicked);
        let reset = [shutdown("guest-reset")];
        assert_eq!(ended(&reset, Status::Exited(0)), ExitReason::GuestReset);
        assert_eq!(ended(&[shutdown("guest-shutdown")], Status::Exited(0)), ExitReason::Shutdown);
        assert_eq!(ended(&[], Status::Exited(1)), ExitReason::Crashed { code: 1 });
        assert_eq!(ended(&[], Status::Signaled(11)), ExitReason::Killed { signal: 11 });
        assert_eq!(ended(&[], Status::Lost), ExitReason::Unknown);
    }
}
