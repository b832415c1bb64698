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
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use runtime_api::{Error, Result, ResultExt};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::helper::{Channel, Reply, Role};
use crate::launcher::receive;
use crate::reaper::Reaper;
use crate::sys;

/// How long nothing must have been launched before spares are started.
const QUIET: Duration = Duration::from_secs(1);

const ROLES: [Role; 2] = [Role::Helper, Role::Cradle];

/// A helper that waits for its request.
pub(crate) struct Spare {
    pub(crate) socket: AsyncFd<OwnedFd>,
    pub(crate) pid: Pid,
    pub(crate) ended: oneshot::Receiver<u32>,
    /// The process group, which has its name from the first process.
    pub(crate) group: Pid,
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

    /// Starts what is missing.
    pub(crate) async fn fill(&self) {
        for role in ROLES {
            while self.state().waiting[role as usize].len() < self.0.wanted {
                match self.start(role).await {
                    Ok(spare) => self.state().waiting[role as usize].push_back(spare),
                    Err(error) => {
                        return log::warn!("start a spare {}: {}", role.name(), error.chain());
                    }
                }
            }
        }
    }

    /// Fills up when nothing has been launched for a while.
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
            spares.fill().await;
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
        if role == Role::Cradle {
            match receive(&socket).await.internal(|| "wait for a cradle")? {
                Some((Reply::Born { pid: born }, _)) => {
                    pid = Pid::from_raw(born);
                    ended = expectation.claim(pid);
                }
                other => return Err(Error::internal(format!("a new cradle said {other:?}"))),
            }
        }
        Ok(Spare { socket, pid, ended, group })
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
