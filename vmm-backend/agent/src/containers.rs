//! All containers, and how they come and go.
//!
//! ```text
//!   free ── reserve ──► creating ── made ──► ready ── delete ──► deleting ──► free
//!                          └── failed, or deleted meanwhile ────────────────►
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runtime_api::{
    ContainerId, CreateContainer, Error, Event, EventKind, ExitStatus, Key, ProcessRef, Result,
    SandboxId, Signal, Status,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cgroup::Cgroup;
use crate::container::{Announcer, Container, KILLED, Parts, api_pid};
use crate::helper;
use crate::launcher::{Launched, Launcher};
use crate::oom::OomWatch;
use crate::process::{Phase, Process};
use crate::streams::Streams;

/// How long a process may take to die of SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

enum Slot {
    /// Told `true` when a deletion has come in between; closed when the creation has ended.
    Creating(watch::Sender<bool>),
    Ready(Arc<Container>),
    Deleting(Arc<Container>),
}

#[derive(Default)]
struct State {
    sandbox: Option<SandboxId>,
    slots: HashMap<ContainerId, Slot>,
    last_key: u64,
}

/// The right to create a container under a reserved id.
pub(crate) struct Creation {
    cancelled: watch::Receiver<bool>,
    sandbox: SandboxId,
    key: Key,
}

/// The containers of the guest.
pub(crate) struct Containers {
    launcher: Arc<Launcher>,
    queue: mpsc::Sender<Event>,
    state: Mutex<State>,
    oom: OomWatch,
}

impl Containers {
    pub(crate) fn new(launcher: Launcher, queue: mpsc::Sender<Event>) -> Self {
        Self { launcher: Arc::new(launcher), queue, state: Mutex::default(), oom: OomWatch::new() }
    }

    pub(crate) fn oom(&self) -> &OomWatch {
        &self.oom
    }

    pub(crate) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_sandbox(&self, sandbox: SandboxId) {
        self.state().sandbox = Some(sandbox);
    }

    /// The container of a process.
    pub(crate) fn find(&self, process: &ProcessRef) -> Result<Arc<Container>> {
        let state = self.state();
        let container = match state.slots.get(&process.container) {
            Some(Slot::Ready(container) | Slot::Deleting(container)) => container,
            Some(Slot::Creating(_)) | None => return Err(unknown(&process.container)),
        };
        match process.key {
            Some(key) if key != container.key => Err(Error::not_found(format!(
                "container {}: key {} is stale",
                container.id,
                key.number()
            ))),
            _ => Ok(Arc::clone(container)),
        }
    }

    /// Takes an id.
    pub(crate) fn reserve(&self, request: &CreateContainer) -> Result<Creation> {
        let mut state = self.state();
        let sandbox = match (&state.sandbox, &request.sandbox) {
            (None, _) => return Err(Error::failed_precondition("this guest has no identity yet")),
            (Some(this), Some(other)) if this != other => {
                return Err(Error::not_found(format!("sandbox {other}: this guest is {this}")));
            }
            (Some(this), _) => this.clone(),
        };
        if state.slots.contains_key(&request.id) {
            return Err(Error::already_exists(format!("container {}", request.id)));
        }
        state.last_key += 1;
        let key = Key::new(state.last_key).ok_or_else(|| Error::internal("out of keys"))?;
        let (cancel, cancelled) = watch::channel(false);
        state.slots.insert(request.id.clone(), Slot::Creating(cancel));
        Ok(Creation { cancelled, sandbox, key })
    }

    /// Creates a container; leaves nothing behind when that fails.
    pub(crate) async fn create(
        self: Arc<Self>,
        request: CreateContainer,
        creation: Creation,
    ) -> Result<Arc<Container>> {
        let mut cancelled = creation.cancelled.clone();
        let id = request.id.clone();
        let mut joined = None;
        let made = tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                Err(Error::cancelled(format!("container {id} was deleted while it was created")))
            }
            made = self.make(&request, &creation, &mut joined) => made,
        };
        match made {
            Ok((container, exit)) => {
                let container = Arc::new(container);
                self.oom.add(&container);
                self.state().slots.insert(id, Slot::Ready(Arc::clone(&container)));
                container.announcer.announce(EventKind::Create {
                    bundle: request.bundle,
                    rootfs: request.rootfs,
                    stdio: request.stdio,
                    pid: api_pid(container.init.pid()),
                });
                tokio::spawn(Arc::clone(&container).watch_init(exit));
                Ok(container)
            }
            Err(error) => {
                self.clean_up(&id, joined.as_deref().map(Cgroup::at)).await;
                self.state().slots.remove(&id);
                Err(error)
            }
        }
    }

    async fn make(
        &self,
        request: &CreateContainer,
        creation: &Creation,
        joined: &mut Option<PathBuf>,
    ) -> Result<(Container, oneshot::Receiver<u32>)> {
        let id = &request.id;
        let mut streams = None;
        let mut fds = Vec::new();
        if !request.stdio.terminal {
            let (ours, given) = Streams::pipes(&request.stdio)?;
            streams = Some(ours);
            fds.extend(given);
        }
        let create = helper::Request::Create(helper::Create {
            id: id.as_str().to_owned(),
            bundle: request.bundle.clone(),
            terminal: request.stdio.terminal,
        });
        let Launched { pid, exit, channel, console, filter, confinement } =
            self.launcher.launch(&create, fds, joined).await?;
        let streams = match (streams, console) {
            (Some(streams), _) => streams,
            (None, Some(master)) => Streams::terminal(master, &request.stdio)?,
            (None, None) => return Err(Error::internal("the helper has sent no terminal")),
        };
        let created = Phase::Created(Some(pid));
        let init = Process::new(ProcessRef::init(id.clone()), request.stdio.clone(), created);
        init.attach(streams);
        let container = Container::new(Parts {
            id: id.clone(),
            key: creation.key,
            bundle: request.bundle.clone(),
            gate: channel,
            filter,
            confinement,
            cgroup_path: joined.clone().unwrap_or_default(),
            init,
            announcer: Announcer {
                queue: self.queue.clone(),
                sandbox: creation.sandbox.clone(),
                container: id.clone(),
            },
            launcher: Arc::clone(&self.launcher),
        });
        Ok((container, exit))
    }

    /// Deletes a process that does not run; a container with everything that belongs to it.
    pub(crate) async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        match &process.exec {
            None => self.delete_container(process).await,
            Some(exec) => {
                let container = self.find(process)?;
                let found = container.find_exec(exec)?;
                if found.is_under_way() {
                    let message = format!("delete {process}: it runs");
                    return Err(Error::failed_precondition(message));
                }
                container.forget_exec(exec);
                Ok(found.exit().unwrap_or_else(killed_now))
            }
        }
    }

    async fn delete_container(&self, process: &ProcessRef) -> Result<ExitStatus> {
        let creating = match self.state().slots.get(&process.container) {
            Some(Slot::Creating(cancel)) => Some(cancel.clone()),
            _ => None,
        };
        if let Some(cancel) = creating {
            cancel.send_replace(true);
            cancel.closed().await;
            if self.find(process).is_err() {
                return Ok(killed_now());
            }
        }
        let container = self.begin_delete(process)?;
        let deleted = self.finish_delete(&container).await;
        let mut state = self.state();
        match &deleted {
            Ok(exit) => {
                state.slots.remove(&container.id);
                drop(state);
                container.forget_all();
                let pid = api_pid(container.init.pid());
                container.announcer.announce(EventKind::Delete { pid, exit: *exit });
            }
            // It can be tried again.
            Err(_) => {
                state.slots.insert(container.id.clone(), Slot::Ready(container));
            }
        }
        deleted
    }

    fn begin_delete(&self, process: &ProcessRef) -> Result<Arc<Container>> {
        let container = self.find(process)?;
        let mut state = self.state();
        let refused = match state.slots.get(&container.id) {
            Some(Slot::Ready(_)) => match container.status() {
                Status::Created | Status::Stopped => None,
                Status::Running => Some("it runs"),
                Status::Paused => Some("it is paused"),
            },
            _ => Some("it is being deleted"),
        };
        if let Some(reason) = refused {
            let message = format!("delete container {}: {reason}", container.id);
            return Err(Error::failed_precondition(message));
        }
        state.slots.insert(container.id.clone(), Slot::Deleting(Arc::clone(&container)));
        Ok(container)
    }

    async fn finish_delete(&self, container: &Container) -> Result<ExitStatus> {
        if container.init.exit().is_none() {
            container.init.signal(Signal::KILL)?;
        }
        let exit =
            tokio::time::timeout(KILL_DEADLINE, container.init.wait()).await.map_err(|_| {
                let message = format!("container {} did not die of SIGKILL", container.id);
                Error::deadline_exceeded(message)
            })??;
        container.cgroup.remove().await?;
        Ok(exit)
    }

    /// Removes what a failed creation has left behind.
    async fn clean_up(&self, id: &ContainerId, cgroup: Option<Cgroup>) {
        if let Some(cgroup) = cgroup
            && let Err(error) = cgroup.remove().await
        {
            log::warn!("clean up after container {id}: {}", error.chain());
        }
    }
}

fn unknown(container: &ContainerId) -> Error {
    Error::not_found(format!("container {container}"))
}

/// The exit of a process that has never run.
fn killed_now() -> ExitStatus {
    ExitStatus { code: KILLED, at: SystemTime::now() }
}
