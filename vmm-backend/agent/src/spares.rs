//! Helpers that have been started before anybody needs them.
//!
//! ```text
//!   fill ─► started ─► waiting ── take ─► at work
//!              ▲                   │
//!              └── some time after ┘
//! ```
//!
//! What a helper costs before its request, the start of a program and new namespaces, is then paid
//! at boot, before a template is saved, or when nothing else happens. A request that finds no spare
//! has one started and waits.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use runtime_api::{Error, Result, ResultExt};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::cgroup::{self, Cgroup};
use crate::helper::{Channel, Reply, Role};
use crate::launcher::receive;
use crate::reaper::Reaper;
use crate::sys;

/// How long nothing must have been launched before spares are started.
const QUIET: Duration = Duration::from_secs(1);

/// How long a cradle may take to be there; then it is killed with its cgroup.
const BIRTH_DEADLINE: Duration = Duration::from_secs(30);

const ROLES: [Role; 2] = [Role::Helper, Role::Cradle];

/// A helper that waits for its request.
pub(crate) struct Spare {
    pub(crate) socket: AsyncFd<OwnedFd>,
    pub(crate) pid: Pid,
    pub(crate) ended: oneshot::Receiver<u32>,
    /// The process group, which has its name from the first process.
    pub(crate) group: Pid,
    /// What a cradle has; it goes with it, unless somebody takes it over.
    pub(crate) cgroup: Option<OwnCgroup>,
}

/// A cgroup that is removed, with what is in it, when nobody takes it over.
pub(crate) struct OwnCgroup(Option<PathBuf>);

impl OwnCgroup {
    /// If it is the one at `path`, it is the caller's to remove from now on.
    pub(crate) fn take_over(&mut self, path: &Path) {
        self.0.take_if(|own| own == path);
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            tokio::spawn(async move {
                if let Err(error) = Cgroup::at(&path).remove().await {
                    log::warn!("{}", error.chain());
                }
            });
        }
    }
}

/// All spares.
#[derive(Clone)]
pub(crate) struct Spares(Arc<Shared>);

struct Shared {
    reaper: Arc<Reaper>,
    executable: PathBuf,
    wanted: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: [VecDeque<Spare>; ROLES.len()],
    /// When the last request came, as long as a refill is to follow it.
    refill_after: Option<Instant>,
}

impl Spares {
    pub(crate) fn new(reaper: Arc<Reaper>, executable: PathBuf, wanted: usize) -> Self {
        Self(Arc::new(Shared { reaper, executable, wanted, state: Mutex::default() }))
    }

    pub(crate) fn reaper(&self) -> &Arc<Reaper> {
        &self.0.reaper
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a helper that waits, or starts one.
    pub(crate) async fn take(&self, role: Role) -> Result<Spare> {
        loop {
            let Some(mut spare) = self.state().waiting[role as usize].pop_front() else {
                return self.start(role).await;
            };
            match spare.ended.try_recv() {
                Err(TryRecvError::Empty) => return Ok(spare),
                ended => log::warn!("a spare {} has ended: {ended:?}", role.name()),
            }
        }
    }

    /// Starts what the first requests will need.
    pub(crate) async fn fill(&self) {
        self.fill_up_to(self.0.wanted).await;
    }

    async fn fill_up_to(&self, count: usize) {
        for role in ROLES {
            while self.state().waiting[role as usize].len() < count {
                match self.start(role).await {
                    Ok(spare) => self.state().waiting[role as usize].push_back(spare),
                    Err(error) => {
                        return log::warn!("start a spare {}: {}", role.name(), error.chain());
                    }
                }
            }
        }
    }

    /// Has one of each kind again when nothing has been launched for a while. Those that came with a
    /// template cost nothing until they are used; others cost every pod time and memory.
    pub(crate) fn refill_later(&self) {
        let pending = self.state().refill_after.replace(Instant::now()).is_some();
        if pending {
            return;
        }
        let spares = self.clone();
        tokio::spawn(async move {
            while let Some(left) = spares.quiet_in() {
                tokio::time::sleep(left).await;
            }
            spares.fill_up_to(1).await;
        });
    }

    /// How long it is until a refill may begin; `None` when it begins now.
    fn quiet_in(&self) -> Option<Duration> {
        let mut state = self.state();
        let left = state.refill_after.and_then(|last| QUIET.checked_sub(last.elapsed()));
        if left.is_none() {
            state.refill_after = None;
        }
        left
    }

    async fn start(&self, role: Role) -> Result<Spare> {
        let expectation = self.0.reaper.expect();
        let (ours, theirs) = Channel::pair()?;
        let group = self.spawn(role, theirs)?;
        let mut ended = expectation.claim(group);
        let socket = sys::watch(ours.into_socket()).internal(|| "watch a helper")?;
        let mut pid = group;
        let mut cgroup = None;
        if role == Role::Cradle {
            cgroup = Some(OwnCgroup(Some(cgroup::of_cradle(group))));
            let born = tokio::time::timeout(BIRTH_DEADLINE, receive(&socket)).await;
            let born = born.map_err(|_| {
                let seconds = BIRTH_DEADLINE.as_secs();
                Error::deadline_exceeded(format!("a cradle was not there after {seconds} s"))
            })?;
            match born.internal(|| "wait for a cradle")? {
                Some((Reply::Born { pid: born }, _)) => {
                    pid = Pid::from_raw(born);
                    ended = expectation.claim(pid);
                }
                other => return Err(Error::internal(format!("a new cradle said {other:?}"))),
            }
        }
        Ok(Spare { socket, pid, ended, group, cgroup })
    }

    fn spawn(&self, role: Role, channel: Channel) -> Result<Pid> {
        let child = Command::new(&self.0.executable)
            .arg(role.name())
            .env_clear()
            .stdin(Stdio::from(channel.into_socket()))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .internal(|| format!("run {} as a helper", self.0.executable.display()))?;
        let pid = i32::try_from(child.id()).internal(|| "the number of a helper")?;
        Ok(Pid::from_raw(pid))
    }
}
