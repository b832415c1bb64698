//! What a guest tells of itself: that it lives, and who has run out of memory.
//!
//! ```text
//!   Watch ──► answered by the guest, after a third of the heartbeat at the latest ──► Watch …
//!     └ silence ──► asked once more ──► silence ──► the machine is ended: all of its processes, with 137
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use runtime_api::{ContainerId, ErrorKind};
use tokio::time::timeout;

use crate::container::Container;
use crate::machine::Machine;

/// How long a guest may take for the last question. It is asked because silence may be that of this
/// process, which has been stopped for a while and has not read the answers that are there.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long a machine whose guest has gone may take to be gone too.
const ENDING: Duration = Duration::from_millis(100);

/// The containers of a sandbox, for what its guest tells of them.
#[derive(Default)]
pub(crate) struct Members(Mutex<HashMap<ContainerId, Weak<Container>>>);

impl Members {
    fn all(&self) -> MutexGuard<'_, HashMap<ContainerId, Weak<Container>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, container: &Arc<Container>) {
        self.all().insert(container.id.clone(), Arc::downgrade(container));
    }

    pub(crate) fn remove(&self, container: &ContainerId) {
        self.all().remove(container);
    }

    async fn out_of_memory(&self, ids: Vec<String>) {
        for id in ids.into_iter().filter_map(|id| ContainerId::parse(id).ok()) {
            let container = self.all().get(&id).and_then(Weak::upgrade);
            if let Some(container) = container {
                container.look_for_oom().await;
            }
        }
    }
}

/// Watches until the guest is silent for as long as `heartbeat`, or gone; then its machine is ended.
pub(crate) async fn watch(machine: &Machine, members: &Members, heartbeat: Duration) {
    let patience = heartbeat / 3;
    let grace = heartbeat.saturating_sub(patience + LAST_WORD);
    loop {
        let told = match machine.guest().watch(patience, grace).await {
            Err(silent) if silent.kind() == ErrorKind::DeadlineExceeded => {
                machine.guest().watch(Duration::ZERO, LAST_WORD).await
            }
            told => told,
        };
        match told {
            Ok(ids) => members.out_of_memory(ids).await,
            Err(error) => {
                // A machine that ends takes its connection with it, and needs nobody's help.
                if timeout(ENDING, machine.exited()).await.is_err() {
                    machine.lost(&error).await;
                }
                return;
            }
        }
    }
}
