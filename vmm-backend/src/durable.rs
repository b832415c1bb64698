//! What a sandbox whose machine lives on keeps of its processes, for another run of the daemon.
//!
//! ```text
//!   remember ──► (created in the guest) ──► keep ──► moving bytes ──► forget
//!   record.json of the process            pipes held by the VMM, journal
//! ```

use runtime_api::{ProcessRef, Result, ResultExt};

use crate::journal::Journal;
use crate::machine::Machine;
use crate::record::ProcessRecord;
use crate::sandbox::Sandbox;
use crate::streams::{OpenStreams, PIPE_NAMES};

impl Sandbox {
    /// Leaves word of a process that is about to be created.
    pub(crate) fn remember(&self, record: &ProcessRecord) -> Result<()> {
        match self.survives {
            true => record.write(&self.directory.process(&record.process).record()),
            false => Ok(()),
        }
    }

    /// Has the VMM keep the pipes of a process, so that they outlive this one with all that is in
    /// them, and opens its journal.
    pub(crate) async fn keep(
        &self,
        machine: &Machine,
        process: &ProcessRef,
        streams: &OpenStreams,
    ) -> Result<Option<Journal>> {
        if !self.survives {
            return Ok(None);
        }
        let files = self.directory.process(process);
        for (name, pipe) in streams.pipes().internal(|| format!("copy the pipes of {process}"))? {
            machine.hold(&format!("{}.{name}", files.name()), pipe).await?;
        }
        Journal::open(&files.progress()).map(Some)
    }

    /// Forgets a process that has been deleted, or never came to exist.
    pub(crate) async fn forget(&self, process: &ProcessRef) {
        if !self.survives {
            return;
        }
        let files = self.directory.process(process);
        if let Some(machine) = self.ready_machine() {
            for name in PIPE_NAMES {
                // Not every process has every pipe, and a machine that is gone has let go of all.
                let _ = machine.let_go(&format!("{}.{name}", files.name())).await;
            }
        }
        files.remove();
    }
}
