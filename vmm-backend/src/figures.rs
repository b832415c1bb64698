//! What is known of a container in numbers, also when its machine has gone.

use std::fs::File;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use runtime_api::{
    CpuStats, ErrorKind, EventKind, MemoryStats, PidsStats, ProcessInfo, Result, Stats,
};

use crate::container::Container;

/// How long the end of a process may take to be known here when the guest has told of it.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// What a bundle has in it once a process of its container was killed for want of memory.
const OOM_FILE: &str = "oom";

impl Container {
    /// What it uses; what it last was known to use when its machine has gone.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let machine = self.sandbox.machine().await?;
        let last = || self.last_stats.lock().unwrap_or_else(PoisonError::into_inner);
        match machine.guest().tasks().stats(&self.id).await {
            Ok(stats) => {
                last().replace(stats.clone());
                Ok(stats)
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                Ok(last().clone().unwrap_or_else(nothing))
            }
            Err(error) => Err(error),
        }
    }

    /// Its living processes.
    pub(crate) async fn pids(&self) -> Result<Vec<ProcessInfo>> {
        if self.init.life.phase().exit().is_some() {
            return Ok(Vec::new());
        }
        let machine = self.sandbox.machine().await?;
        match machine.guest().tasks().pids(&self.id).await {
            // The guest may be told of the end of the process, or have met its own, a moment earlier.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {
                let ended = self.init.exited_within(END_DEADLINE).await;
                if ended { Ok(Vec::new()) } else { Err(error) }
            }
            answer => answer,
        }
    }

    /// Asks the guest whether it has run out of memory, and announces what is new: by an event, and for
    /// daemons without events (CRI-O) by a file in the bundle.
    pub(crate) async fn look_for_oom(&self) {
        let kills = match self.stats().await {
            Ok(stats) => stats.memory.oom_kills,
            Err(error) => return log::debug!("stats of {}: {}", self.id, error.chain()),
        };
        if self.oom_kills.fetch_max(kills, Ordering::Relaxed) < kills {
            let file = self.bundle.join(OOM_FILE);
            if let Err(error) = File::create(&file) {
                log::warn!("create {}: {error}", file.display());
            }
            self.announce(EventKind::Oom);
        }
    }
}

/// What is told of a container whose machine has gone before anybody asked.
fn nothing() -> Stats {
    Stats {
        at: SystemTime::now(),
        cpu: CpuStats::default(),
        memory: MemoryStats::default(),
        pids: PidsStats::default(),
        io: Vec::new(),
    }
}
