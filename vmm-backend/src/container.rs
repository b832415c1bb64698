//! A container on its way into the guest, in it, and out again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_api::{
    ContainerId, CreateContainer, Error, ErrorKind, Event, EventKind, Exec, ExecId, ExitStatus,
    Key, KillScope, Mount, Pid, ProcessRef, Result, ResultExt, RuntimeOptions, Signal, Stats,
    Stdio,
};
use tokio::sync::watch;

use crate::bundle::{Bundle, Translation};
use crate::events::EventQueue;
use crate::hooks::{Hooks, Stage};
use crate::layout::ContainerDirectory;
use crate::logger::Names;
use crate::machine::Machine;
use crate::mount;
use crate::phase::Phase;
use crate::phases::Phases;
use crate::process::Process;
use crate::record::ProcessRecord;
use crate::sandbox::Sandbox;
use crate::streams::OpenStreams;

/// A container.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) key: Key,
    pub(crate) bundle: PathBuf,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) init: Arc<Process>,
    directory: ContainerDirectory,
    rootfs: Vec<Mount>,
    hooks: Hooks,
    execs: Mutex<HashMap<ExecId, Arc<Process>>>,
    events: Arc<EventQueue>,
    /// Set when a deletion arrives while the creation is under way.
    cancelled: watch::Sender<bool>,
    /// How often the guest's kernel has killed in it for want of memory, as far as that was announced.
    pub(crate) oom_kills: AtomicU64,
    /// What the guest has last answered, for when it does not answer any more.
    pub(crate) last_stats: Mutex<Option<Stats>>,
}

impl Container {
    pub(crate) fn new(
        request: &CreateContainer,
        hooks: Hooks,
        key: Key,
        sandbox: Arc<Sandbox>,
        events: Arc<EventQueue>,
    ) -> Self {
        let reference = ProcessRef::init(request.id.clone());
        Self {
            id: request.id.clone(),
            key,
            bundle: request.bundle.clone(),
            directory: sandbox.directory.container(&request.id),
            sandbox,
            init: Arc::new(Process::new(reference, request.stdio.clone())),
            rootfs: request.rootfs.clone(),
            hooks,
            execs: Mutex::default(),
            events,
            cancelled: watch::Sender::new(false),
            oom_kills: AtomicU64::new(0),
            last_stats: Mutex::default(),
        }
    }

    /// Announces what has happened to it.
    pub(crate) fn announce(&self, kind: EventKind) {
        self.events.send(Event {
            sandbox: self.sandbox.id.clone(),
            container: self.id.clone(),
            at: SystemTime::now(),
            kind,
        });
    }

    // Creation ------------------------------------------------------------------------------------

    /// Creates it in the guest; on failure everything is undone.
    pub(crate) async fn create(self: Arc<Self>, bundle: &Bundle) -> Result<Pid> {
        let mut cancelled = self.cancelled.subscribe();
        let created = tokio::select! {
            created = self.create_with_hooks(bundle) => created,
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                Err(Error::cancelled(format!("container {} was deleted while it was created", self.id)))
            }
        };
        match created {
            Ok(machine) => {
                let (bundle, rootfs) = (self.bundle.clone(), self.rootfs.clone());
                let (stdio, pid) = (self.init.stdio.clone(), machine.pid());
                let event = EventKind::Create { bundle, rootfs, stdio, pid };
                let created = |phase| (phase == Phase::Creating).then_some(Phase::Created);
                self.init.life.advance(&self.init.reference, created, || self.announce(event))?;
                tokio::spawn(Arc::clone(&self.init).watch(Arc::clone(&self), machine));
                Ok(pid)
            }
            Err(error) => {
                self.undo_creation().await;
                Err(error)
            }
        }
    }

    /// Comes back to a container that an earlier run has created, and to its execs.
    pub(crate) async fn take_over(
        record: ProcessRecord,
        key: Key,
        sandbox: Arc<Sandbox>,
        events: Arc<EventQueue>,
    ) -> Result<Arc<Self>> {
        let ProcessRecord { process, bundle, stdio, .. } = record;
        let hooks = Bundle::read(&bundle).map(|bundle| bundle.hooks()).unwrap_or_default();
        let machine = sandbox.machine().await?;
        let container = Arc::new(Self {
            id: process.container.clone(),
            key,
            bundle,
            directory: sandbox.directory.container(&process.container),
            sandbox,
            init: Arc::new(Process::new(process, stdio)),
            rootfs: Vec::new(),
            hooks,
            execs: Mutex::default(),
            events,
            cancelled: watch::Sender::new(false),
            oom_kills: AtomicU64::new(0),
            last_stats: Mutex::default(),
        });
        Arc::clone(&container.init).take_over(&container, machine).await?;
        Ok(container)
    }

    /// Comes back to an exec.
    pub(crate) async fn take_over_exec(self: &Arc<Self>, record: ProcessRecord) -> Result<()> {
        let Some(id) = record.process.exec.clone() else { return Ok(()) };
        let machine = self.sandbox.machine().await?;
        let process = Arc::new(Process::new(record.process, record.stdio));
        Arc::clone(&process).take_over(self, machine).await?;
        self.execs().insert(id, process);
        Ok(())
    }

    async fn create_with_hooks(&self, bundle: &Bundle) -> Result<Arc<Machine>> {
        let machine = self.create_in_guest(bundle).await?;
        match self.hooks.run(Stage::CreateRuntime, self, machine.pid()).await {
            Ok(()) => Ok(machine),
            Err(error) => {
                self.run_hooks(Stage::Poststop, Pid(0)).await;
                Err(error)
            }
        }
    }

    /// Runs hooks whose failure changes nothing.
    pub(crate) async fn run_hooks(&self, stage: Stage, pid: Pid) {
        if let Err(error) = self.hooks.run(stage, self, pid).await {
            log::warn!("{}", error.chain());
        }
    }

    async fn create_in_guest(&self, bundle: &Bundle) -> Result<Arc<Machine>> {
        let mut phases = Phases::begin();
        // The machine starts meanwhile.
        let guest_bundle = Path::new(guest_api::SHARE_DIRECTORY).join(&self.id);
        let translation = bundle.translate(&self.id, &guest_bundle)?;
        let streams = OpenStreams::open(&self.init.stdio, self.log_names(&self.init)).await?;
        self.prepare(&translation)?;
        self.sandbox.remember(&self.record(&self.init, false))?;
        phases.end("prepare");
        let machine = self.sandbox.machine().await?;
        // Told of by the sandbox.
        phases.skip();
        let request = CreateContainer {
            id: self.id.clone(),
            sandbox: None,
            bundle: guest_bundle,
            rootfs: Vec::new(),
            stdio: streams.guest_stdio(self.init.stdio.terminal),
            options: RuntimeOptions::default(),
        };
        let process = &self.init.reference;
        let journal = self.sandbox.keep(&machine, process, &streams).await?;
        machine.guest().tasks().create_container(request).await?;
        self.sandbox.remember(&self.record(&self.init, true))?;
        self.init.put_streams(streams.run(machine.guest(), process, journal));
        phases.end("create");
        log::info!("phases of container {}: {phases}", self.id);
        Ok(machine)
    }

    fn record(&self, process: &Process, created: bool) -> ProcessRecord {
        ProcessRecord {
            process: process.reference.clone(),
            created,
            bundle: self.bundle.clone(),
            stdio: process.stdio.clone(),
        }
    }

    /// Puts the root filesystem, the volumes and the spec where the guest will find them.
    fn prepare(&self, translation: &Translation) -> Result<()> {
        self.directory.create()?;
        let rootfs = self.directory.rootfs();
        if self.rootfs.is_empty() {
            if !translation.root.is_dir() {
                let root = translation.root.display();
                return Err(Error::not_found(format!("root {root} of container {}", self.id)));
            }
            mount::bind(&translation.root, &rootfs)?;
        } else {
            mount::mount_rootfs(&self.rootfs, &rootfs)?;
        }
        for (number, source) in translation.volumes.iter().enumerate() {
            let place = self.directory.volumes().join(number.to_string());
            let made = if source.is_dir() {
                fs::create_dir(&place)
            } else {
                File::create_new(&place).map(drop)
            };
            made.internal(|| format!("create {}", place.display()))?;
            mount::bind(source, &place)?;
        }
        let config = self.directory.config();
        fs::write(&config, &translation.config).internal(|| format!("write {}", config.display()))
    }

    async fn undo_creation(&self) {
        if let Some(streams) = self.init.take_streams() {
            streams.abort().await;
        }
        if let Some(machine) = self.sandbox.ready_machine() {
            self.forget_in_guest(&machine).await;
        }
        self.sandbox.forget(&self.init.reference).await;
        if let Err(error) = self.directory.remove() {
            log::error!("container {}: {}", self.id, error.chain());
        }
        self.init.life.set(Phase::Gone(None));
    }

    /// Gives up a creation that is under way, and waits until it has undone itself.
    pub(crate) async fn cancel_creation(&self) {
        self.cancelled.send_replace(true);
        self.init.life.reach(|phase| *phase != Phase::Creating).await;
    }

    // Deletion ------------------------------------------------------------------------------------

    /// Deletes the container: `Stopped` or `Created` → gone, with its event. The caller takes it out
    /// of the registry.
    pub(crate) async fn delete(&self) -> Result<ExitStatus> {
        let exit = begin_deletion(&self.init)?;
        if let Some(streams) = self.init.take_streams() {
            streams.finish().await;
        }
        if let Some(machine) = self.sandbox.ready_machine() {
            self.forget_in_guest(&machine).await;
        }
        if let Err(error) = self.directory.remove() {
            // It can be tried again.
            self.init.life.set(Phase::Stopped(exit));
            return Err(error);
        }
        let pid = self.pid();
        self.run_hooks(Stage::Poststop, Pid(0)).await;
        let execs: Vec<_> = self.execs().drain().map(|(_, exec)| exec).collect();
        for exec in execs {
            self.sandbox.forget(&exec.reference).await;
            exec.life.set(Phase::Gone(exec.life.phase().exit()));
        }
        self.sandbox.forget(&self.init.reference).await;
        self.init.life.set(Phase::Gone(Some(exit)));
        self.announce(EventKind::Delete { pid, exit });
        Ok(exit)
    }

    async fn forget_in_guest(&self, machine: &Machine) {
        let tasks = machine.guest().tasks();
        let init = &self.init.reference;
        let deleted = match tasks.delete(init).await {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                // It came into being although the caller has given up waiting for it.
                let _ = tasks.kill(init, Signal::KILL, KillScope::All).await;
                tasks.delete(init).await
            }
            deleted => deleted,
        };
        match deleted {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // A guest that is gone has forgotten.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => log::warn!("container {} stays in its guest: {}", self.id, error.chain()),
        }
    }

    // Processes -----------------------------------------------------------------------------------

    pub(crate) fn pid(&self) -> Pid {
        self.sandbox.ready_machine().map_or(Pid(0), |machine| machine.pid())
    }

    /// What a logging program is told of one of its processes.
    pub(crate) fn log_names<'a>(&'a self, process: &'a Process) -> Names<'a> {
        let exec = process.reference.exec.as_ref().map(ExecId::as_str);
        Names { namespace: &self.sandbox.namespace, id: exec.unwrap_or(self.id.as_str()) }
    }

    /// Finds one of its processes.
    pub(crate) fn process(&self, exec: Option<&ExecId>) -> Result<Arc<Process>> {
        match exec {
            None => Ok(Arc::clone(&self.init)),
            Some(id) => self
                .execs()
                .get(id)
                .cloned()
                .ok_or_else(|| Error::not_found(format!("exec {id} of container {}", self.id))),
        }
    }

    /// Adds an exec; its id is taken from now on.
    pub(crate) async fn exec(self: Arc<Self>, request: Exec) -> Result<()> {
        if self.init.life.phase() != Phase::Running && self.init.life.phase() != Phase::Created {
            return Err(Error::failed_precondition(format!(
                "container {} takes no exec: it neither runs nor is created",
                self.id
            )));
        }
        let process = self.reserve_exec(&request.id, request.stdio.clone())?;
        match self.exec_in_guest(&process, request).await {
            Ok(machine) => {
                let exec = process.reference.exec.clone();
                let event = exec.map(|exec| EventKind::ExecAdded { exec });
                let created = |phase| (phase == Phase::Creating).then_some(Phase::Created);
                process.life.advance(&process.reference, created, || {
                    event.into_iter().for_each(|event| self.announce(event));
                })?;
                tokio::spawn(process.watch(self, machine));
                Ok(())
            }
            Err(error) => {
                self.sandbox.forget(&process.reference).await;
                self.drop_exec(&process);
                process.life.set(Phase::Gone(None));
                Err(error)
            }
        }
    }

    fn reserve_exec(&self, id: &ExecId, stdio: Stdio) -> Result<Arc<Process>> {
        let mut execs = self.execs();
        if execs.contains_key(id) {
            return Err(Error::already_exists(format!("exec {id} of container {}", self.id)));
        }
        let reference = ProcessRef::exec(self.id.clone(), id.clone());
        let process = Arc::new(Process::new(reference, stdio));
        execs.insert(id.clone(), Arc::clone(&process));
        Ok(process)
    }

    async fn exec_in_guest(&self, process: &Process, mut request: Exec) -> Result<Arc<Machine>> {
        let streams = OpenStreams::open(&request.stdio, self.log_names(process)).await?;
        let machine = self.sandbox.machine().await?;
        self.sandbox.remember(&self.record(process, false))?;
        let journal = self.sandbox.keep(&machine, &process.reference, &streams).await?;
        request.stdio = streams.guest_stdio(request.stdio.terminal);
        machine.guest().tasks().exec(request).await?;
        self.sandbox.remember(&self.record(process, true))?;
        process.put_streams(streams.run(machine.guest(), &process.reference, journal));
        Ok(machine)
    }

    /// Deletes an exec: `Stopped` or `Created` → gone.
    pub(crate) async fn delete_exec(&self, process: &Process) -> Result<ExitStatus> {
        let exit = begin_deletion(process)?;
        if let Some(streams) = process.take_streams() {
            streams.finish().await;
        }
        if let Some(machine) = self.sandbox.ready_machine()
            && let Err(error) = machine.guest().tasks().delete(&process.reference).await
        {
            log::debug!("{} in the guest: {}", process.reference, error.chain());
        }
        self.sandbox.forget(&process.reference).await;
        self.drop_exec(process);
        process.life.set(Phase::Gone(Some(exit)));
        Ok(exit)
    }

    fn drop_exec(&self, process: &Process) {
        if let Some(id) = &process.reference.exec {
            self.execs().remove(id);
        }
    }

    /// Freezes it: `Running` → `Paused`, with its event.
    pub(crate) async fn freeze(&self, init: &Process) -> Result<()> {
        let freezing = |phase| (phase == Phase::Running).then_some(Phase::Freezing);
        init.life.advance(&init.reference, freezing, || {})?;
        let frozen = self.sandbox.machine().await?.guest().tasks().pause(&self.id).await;
        let next = if frozen.is_ok() { Phase::Paused } else { Phase::Running };
        self.settle(init, Phase::Freezing, next, EventKind::Paused);
        frozen
    }

    /// Thaws it: `Paused` → `Running`, with its event.
    pub(crate) async fn thaw(&self, init: &Process) -> Result<()> {
        let thawing = |phase| (phase == Phase::Paused).then_some(Phase::Thawing);
        init.life.advance(&init.reference, thawing, || {})?;
        let thawed = self.sandbox.machine().await?.guest().tasks().resume(&self.id).await;
        let next = if thawed.is_ok() { Phase::Running } else { Phase::Paused };
        self.settle(init, Phase::Thawing, next, EventKind::Resumed);
        thawed
    }

    /// Ends the operation that owns phase `from`; a change that took place is announced.
    fn settle(&self, init: &Process, from: Phase, to: Phase, event: EventKind) {
        let changed = match to {
            Phase::Paused => from == Phase::Freezing,
            _ => from == Phase::Thawing,
        };
        let next = |phase| (phase == from).then_some(to);
        // Refused only when the process has ended meanwhile.
        let _ = init.life.advance(&init.reference, next, || {
            if changed {
                self.announce(event);
            }
        });
    }

    /// Waits until every exec that has run has ended, each for at most `deadline`.
    pub(crate) async fn execs_exited(&self, deadline: Duration) {
        let ran =
            |exec: &&Arc<Process>| !matches!(exec.life.phase(), Phase::Creating | Phase::Created);
        let execs: Vec<_> = self.execs().values().filter(ran).cloned().collect();
        for exec in execs {
            if !exec.exited_within(deadline).await {
                log::warn!("{} outlives its container's init", exec.reference);
            }
        }
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Enters the deletion of a process that has ended, or never ran.
fn begin_deletion(process: &Process) -> Result<ExitStatus> {
    let never_ran = ExitStatus { code: 0, at: SystemTime::now() };
    let next = |phase: Phase| match phase {
        Phase::Stopped(exit) => Some(Phase::Deleting(exit)),
        Phase::Created => Some(Phase::Deleting(never_ran)),
        _ => None,
    };
    process.life.advance(&process.reference, next, || {})?;
    Ok(process.life.phase().exit().unwrap_or(never_ran))
}
