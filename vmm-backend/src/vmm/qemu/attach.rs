//! Taking control of a machine whose owner has gone.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::timeout;

use super::arguments::Sockets;
use super::process::Process;
use super::vm::{Machine, QemuVm, control};
use crate::vmm::{LeftMachine, VmmError};

/// How long a machine that has closed its connections may take to end.
const ENDING_DEADLINE: Duration = Duration::from_secs(1);

/// How long a machine that is there may take to greet.
const ATTACH_DEADLINE: Duration = Duration::from_secs(5);

/// Takes control of a machine that an earlier run has left.
pub(super) async fn attach(program: &Path, left: &LeftMachine) -> Result<Option<QemuVm>, VmmError> {
    let sockets = Sockets::new(&left.directory)?;
    let adopting = Process::adopt(left.vmm).map_err(|source| VmmError::Host {
        attempt: "watch the machine in",
        path: left.directory.clone(),
        source,
    })?;
    let Some(process) = adopting else { return Ok(None) };
    let machine = Machine { process: Arc::new(process), sockets, kept: AtomicBool::new(true) };
    let lost = |source| VmmError::Channel { path: machine.sockets.qmp.clone(), source };
    let controlled = timeout(ATTACH_DEADLINE, control(program, &machine.sockets))
        .await
        .map_err(|_| lost(io::ErrorKind::TimedOut.into()))??;
    match controlled {
        Ok(controlled) => Ok(Some(QemuVm::supervised(machine, controlled, None, Arc::default()))),
        // One that is about to end lets go of its connections first.
        Err(error) => match timeout(ENDING_DEADLINE, machine.process.exited()).await {
            Ok(_) => Ok(None),
            Err(_) => Err(lost(error)),
        },
    }
}
