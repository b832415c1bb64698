//! A container: its init process, its execs, its cgroup.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::unistd::Pid;
use runtime_api::{
    ContainerId, Error, Event, EventKind, Exec, ExecId, Json, Key, Pid as ApiPid, ProcessInfo,
    ProcessRef, Result, ResultExt, SandboxId, Status,
};
use tokio::sync::{mpsc, oneshot};

use crate::cgroup::{Cgroup, Freezer};
use crate::helper::{self, Confinement};
use crate::launcher::{Launched, Launcher};
use crate::process::{Phase, Process};
use crate::streams::Streams;
use crate::sys;

/// How long execs may outlive their init, which the kernel kills them with.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

/// Tells the one reader of events what has happened.
#[derive(Clone)]
pub(crate) struct Announcer {
    pub(crate) queue: mpsc::Sender<Event>,
    pub(crate) sandbox: SandboxId,
    pub(crate) container: ContainerId,
}

impl Announcer {
    pub(crate) fn announce(&self, kind: EventKind) {
        let (sandbox, container) = (self.sandbox.clone(), self.container.clone());
        let event = Event { sandbox, container, at: SystemTime::now(), kind };
        // A queue that nobody reads must not grow without end, nor stop the containers.
        if let Err(error) = self.queue.try_send(event) {
            log::debug!("an event of container {} is lost: {error}", self.container);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frost {
    Thawed,
    Changing,
    Frozen,
}

/// A container that has been created.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) key: Key,
    pub(crate) bundle: PathBuf,
    pub(crate) init: Arc<Process>,
    pub(crate) cgroup: Cgroup,
    pub(crate) cgroup_path: PathBuf,
    pub(crate) announcer: Announcer,
    pub(crate) launcher: Arc<Launcher>,
    /// Over which the init process is told to start, until it is.
    gate: Mutex<Option<OwnedFd>>,
    filter: Option<OwnedFd>,
    confinement: Confinement,
    execs: Mutex<HashMap<ExecId, (Arc<Process>, Json)>>,
    frost: Mutex<Frost>,
    oom_kills: AtomicU64,
}

/// What a container consists of when it has just been made.
pub(crate) struct Parts {
    pub(crate) id: ContainerId,
    pub(crate) key: Key,
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup_path: PathBuf,
    pub(crate) init: Process,
    pub(crate) gate: OwnedFd,
    pub(crate) filter: Option<OwnedFd>,
    pub(crate) confinement: Confinement,
    pub(crate) announcer: Announcer,
    pub(crate) launcher: Arc<Launcher>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn api_pid(pid: Option<Pid>) -> ApiPid {
    ApiPid(pid.map_or(0, |pid| pid.as_raw().unsigned_abs()))
}

impl Container {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            id: parts.id,
            key: parts.key,
            bundle: parts.bundle,
            init: Arc::new(parts.init),
            cgroup: Cgroup::at(&parts.cgroup_path),
            cgroup_path: parts.cgroup_path,
            announcer: parts.announcer,
            launcher: parts.launcher,
            gate: Mutex::new(Some(parts.gate)),
            filter: parts.filter,
            confinement: parts.confinement,
            execs: Mutex::default(),
            frost: Mutex::new(Frost::Thawed),
            oom_kills: AtomicU64::new(0),
        }
    }

    /// The status of the init process, which is the container's.
    pub(crate) fn status(&self) -> Status {
        match self.init.status() {
            Status::Running if *lock(&self.frost) == Frost::Frozen => Status::Paused,
            status => status,
        }
    }

    pub(crate) fn find_exec(&self, exec: &ExecId) -> Result<Arc<Process>> {
        lock(&self.execs)
            .get(exec)
            .map(|(process, _)| Arc::clone(process))
            .ok_or_else(|| Error::not_found(format!("exec {exec} of container {}", self.id)))
    }

    fn all_execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().map(|(process, _)| Arc::clone(process)).collect()
    }

    /// Starts the init process, which waits for a word.
    pub(crate) fn start(&self) -> Result<Pid> {
        let mut phase = self.init.phase();
        let Phase::Created(Some(pid)) = *phase else {
            let message = format!("{} has been started already", self.init.name);
            return Err(Error::failed_precondition(message));
        };
        self.say_start().internal(|| format!("start {}", self.init.name))?;
        *phase = Phase::Running(pid);
        drop(phase);
        self.announcer.announce(EventKind::Start { pid: api_pid(Some(pid)) });
        Ok(pid)
    }

    fn say_start(&self) -> io::Result<()> {
        match lock(&self.gate).take() {
            Some(gate) => helper::Channel::say_start(&gate),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Adds an exec; it is started later.
    pub(crate) fn add_exec(&self, request: Exec) -> Result<()> {
        let status = self.status();
        if matches!(status, Status::Stopped | Status::Paused) {
            let message = format!("exec {} in container {}: it is {status:?}", request.id, self.id);
            return Err(Error::failed_precondition(message.to_lowercase()));
        }
        let name = ProcessRef::exec(self.id.clone(), request.id.clone());
        let mut execs = lock(&self.execs);
        if execs.contains_key(&request.id) {
            return Err(Error::already_exists(name.to_string()));
        }
        let process = Process::new(name, request.stdio, Phase::Created(None));
        execs.insert(request.id.clone(), (Arc::new(process), request.process));
        drop(execs);
        self.announcer.announce(EventKind::ExecAdded { exec: request.id });
        Ok(())
    }

    /// Starts an exec. When that fails the exec is forgotten and its id free.
    pub(crate) async fn start_exec(self: &Arc<Self>, id: &ExecId) -> Result<Pid> {
        let (process, json) = lock(&self.execs)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("exec {id} of container {}", self.id)))?;
        if self.init.status() == Status::Stopped {
            let message = format!("start {}: the container has stopped", process.name);
            return Err(Error::failed_precondition(message));
        }
        {
            let mut phase = process.phase();
            if !matches!(*phase, Phase::Created(_)) {
                let message = format!("{} has been started already", process.name);
                return Err(Error::failed_precondition(message));
            }
            *phase = Phase::Starting;
        }
        match self.launch_exec(&process, json).await {
            Ok(launched) => {
                let pid = launched.pid;
                *process.phase() = Phase::Running(pid);
                let exec = id.clone();
                self.announcer.announce(EventKind::ExecStarted { exec, pid: api_pid(Some(pid)) });
                tokio::spawn(Arc::clone(self).watch_exec(process, launched.exit));
                Ok(pid)
            }
            Err(error) => {
                *process.phase() = Phase::Stopped(None);
                self.forget_exec(id);
                Err(error)
            }
        }
    }

    async fn launch_exec(&self, process: &Process, json: Json) -> Result<Launched> {
        let init = self.init.pid().ok_or_else(|| {
            Error::failed_precondition(format!("container {} has no init", self.id))
        })?;
        let mut fds = vec![sys::open_pidfd(init).internal(|| format!("open a pidfd of {init}"))?];
        if let Some(filter) = &self.filter {
            fds.push(filter.try_clone().internal(|| "copy the seccomp filter")?);
        }
        let mut streams = None;
        if !process.stdio.terminal {
            let (ours, given) = Streams::pipes(&process.stdio)?;
            streams = Some(ours);
            fds.extend(given);
        }
        let request = helper::Request::Exec(helper::Exec {
            cgroup: self.cgroup_path.clone(),
            terminal: process.stdio.terminal,
            confinement: self.confinement,
            process: text(json)?,
        });
        let mut launched = self.launcher.launch(&request, fds, &mut None).await?;
        let streams = match (streams, launched.console.take()) {
            (Some(streams), _) => streams,
            (None, Some(master)) => Streams::terminal(master, &process.stdio)?,
            (None, None) => return Err(Error::internal("the helper has sent no terminal")),
        };
        process.attach(streams);
        Ok(launched)
    }

    async fn watch_exec(self: Arc<Self>, process: Arc<Process>, exit: oneshot::Receiver<u32>) {
        let code = exit.await.unwrap_or(KILLED);
        self.announce_exit(&process, code);
    }

    /// Waits for the end of the init process, and of all execs before it is told.
    pub(crate) async fn watch_init(self: Arc<Self>, exit: oneshot::Receiver<u32>) {
        let code = exit.await.unwrap_or(KILLED);
        // A pid namespace dies with its init; a container without one of its own needs this.
        if let Err(error) = self.cgroup.kill() {
            log::warn!("kill what is left of container {}: {}", self.id, error.chain());
        }
        let execs = async {
            for exec in self.all_execs().into_iter().filter(|exec| exec.is_under_way()) {
                drop(exec.wait().await);
            }
        };
        if tokio::time::timeout(EXEC_DEADLINE, execs).await.is_err() {
            log::warn!("execs of container {} have outlived it", self.id);
        }
        self.announce_exit(&Arc::clone(&self.init), code);
    }

    fn announce_exit(&self, process: &Process, code: u32) {
        self.announce_oom();
        let pid = api_pid(process.pid());
        let exec = process.name.exec.clone();
        process.end(code, |exit| {
            self.announcer.announce(EventKind::Exit { exec, pid, exit });
        });
    }

    /// Tells of kills for want of memory that have not been told of.
    pub(crate) fn announce_oom(&self) {
        let kills = self.cgroup.oom_kills();
        if self.oom_kills.fetch_max(kills, Ordering::Relaxed) < kills {
            self.announcer.announce(EventKind::Oom);
        }
    }

    /// Forgets an exec that does not run.
    pub(crate) fn forget_exec(&self, id: &ExecId) {
        let forgotten = lock(&self.execs).remove(id);
        if let Some((process, _)) = forgotten {
            process.forget();
        }
    }

    /// Lets go of all execs when the container is deleted.
    pub(crate) fn forget_all(&self) {
        for (process, _) in lock(&self.execs).drain().map(|(_, exec)| exec) {
            process.forget();
        }
    }

    /// Freezes or thaws.
    pub(crate) async fn freeze(&self, freezer: Freezer) -> Result<()> {
        let (from, to, event) = match freezer {
            Freezer::Frozen => (Frost::Thawed, Frost::Frozen, EventKind::Paused),
            Freezer::Thawed => (Frost::Frozen, Frost::Thawed, EventKind::Resumed),
        };
        {
            let running = self.init.status() == Status::Running;
            let mut frost = lock(&self.frost);
            if !running || *frost != from {
                let message = format!("container {} is not {from:?} and running", self.id);
                return Err(Error::failed_precondition(message.to_lowercase()));
            }
            *frost = Frost::Changing;
        }
        let result = self.cgroup.freeze(freezer).await;
        *lock(&self.frost) = if result.is_ok() { to } else { Frost::Thawed };
        result?;
        self.announcer.announce(event);
        Ok(())
    }

    /// The living processes.
    pub(crate) fn processes(&self) -> Result<Vec<ProcessInfo>> {
        if self.init.status() == Status::Stopped {
            return Ok(Vec::new());
        }
        let execs: HashMap<Pid, ExecId> = self
            .all_execs()
            .iter()
            .filter_map(|exec| Some((exec.pid()?, exec.name.exec.clone()?)))
            .collect();
        let mut pids = self.cgroup.processes()?;
        // In the moment before it is seen in its cgroup, or after its end is seen there first.
        if let Some(init) = self.init.pid().filter(|init| !pids.contains(init)) {
            pids.insert(0, init);
        }
        let info = |pid| ProcessInfo { pid: api_pid(Some(pid)), exec: execs.get(&pid).cloned() };
        Ok(pids.into_iter().map(info).collect())
    }
}

/// The exit code of a process that SIGKILL has ended.
pub(crate) const KILLED: u32 = 137;

/// A JSON document as text.
pub(crate) fn text(json: Json) -> Result<String> {
    String::from_utf8(json.0)
        .map_err(|error| Error::invalid_argument("a JSON document is no text").with_source(error))
}
