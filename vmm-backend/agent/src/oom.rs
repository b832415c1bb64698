//! Which containers run out of memory, in the moment when they do.
//!
//! ```text
//!   kernel kills ──► memory.events changes ──► inotify(7) ──► Oom event ──► bulletin ──► Watch
//! ```

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use runtime_api::{ContainerId, EventKind, EventStream, Result, ResultExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::container::Container;
use crate::sys;

/// Looks at the cgroups of all containers, by one descriptor.
pub(crate) struct OomWatch {
    /// `None` where the kernel has none to give: then an exit tells what has happened.
    inotify: Option<Inotify>,
    watched: Mutex<HashMap<WatchDescriptor, Weak<Container>>>,
}

impl OomWatch {
    pub(crate) fn new() -> Self {
        let opened = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = opened.inspect_err(|error| log::warn!("watch for OOM kills: {error}")).ok();
        Self { inotify, watched: Mutex::default() }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Weak<Container>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look at a container; it ends with its cgroup.
    pub(crate) fn add(&self, container: &Arc<Container>) {
        let Some(inotify) = &self.inotify else { return };
        let events = container.cgroup.directory().join("memory.events");
        let mut watched = self.watched();
        match inotify.add_watch(&events, AddWatchFlags::IN_MODIFY) {
            Ok(descriptor) => drop(watched.insert(descriptor, Arc::downgrade(container))),
            // A cgroup without a memory controller has no limit that could be hit.
            Err(error) => log::debug!("watch {}: {error}", events.display()),
        }
    }

    /// Announces kills for as long as the guest lives.
    ///
    /// # Errors
    /// `Internal` when the descriptor cannot be watched.
    pub(crate) async fn run(&self) -> Result<()> {
        let describe = || "watch for OOM kills";
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let copy = inotify.as_fd().try_clone_to_owned().internal(describe)?;
        let ready = sys::watch(copy).internal(describe)?;
        loop {
            let mut guard = ready.readable().await.internal(describe)?;
            match inotify.read_events() {
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                events => {
                    for event in events.internal(describe)? {
                        self.changed(event.wd, event.mask.contains(AddWatchFlags::IN_IGNORED));
                    }
                }
            }
        }
    }

    fn changed(&self, descriptor: WatchDescriptor, gone: bool) {
        let container = match gone {
            true => self.watched().remove(&descriptor),
            false => self.watched().get(&descriptor).cloned(),
        };
        if let Some(container) = container.as_ref().and_then(Weak::upgrade) {
            container.announce_oom();
        }
    }
}

/// What the host has not been told yet.
#[derive(Default)]
pub(crate) struct Bulletin {
    out_of_memory: Mutex<BTreeSet<ContainerId>>,
    posted: Notify,
}

impl Bulletin {
    /// Posts what the host wants to know of the runtime's events. It gets the rest by its own calls.
    pub(crate) async fn collect(&self, mut events: EventStream) {
        while let Some(event) = poll_fn(|context| events.as_mut().poll_next(context)).await {
            if matches!(event.kind, EventKind::Oom) {
                self.out_of_memory().insert(event.container);
                self.posted.notify_one();
            }
        }
    }

    fn out_of_memory(&self) -> MutexGuard<'_, BTreeSet<ContainerId>> {
        self.out_of_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was posted, or waits for it for as long as `patience`.
    pub(crate) async fn take(&self, patience: Duration) -> Vec<String> {
        let posted = || -> Vec<String> {
            std::mem::take(&mut *self.out_of_memory()).iter().map(ToString::to_string).collect()
        };
        let wait = async {
            loop {
                let found = posted();
                if !found.is_empty() {
                    return found;
                }
                self.posted.notified().await;
            }
        };
        timeout(patience, wait).await.unwrap_or_default()
    }
}
