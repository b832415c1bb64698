//! Clean-up from outside: after a crash, or for a daemon that has given a container up.

use std::fs;
use std::path::Path;

use runtime_api::{ContainerId, Result, SandboxId};

use crate::layout::SandboxDirectory;
use crate::record::Record;

/// What to clean up.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The container whose deletion was asked for.
    pub container: ContainerId,
}

/// Removes what is left of a container: its mounts and files, and its whole sandbox (the owning
/// process and the machine with it) unless that lives on with other containers.
///
/// Needs no executor. Idempotent: it succeeds when nothing is left.
///
/// # Errors
/// What stays behind, by name.
pub fn cleanup(state_dir: &Path, leftover: &Leftover) -> Result<()> {
    let directory = SandboxDirectory::of(state_dir, &leftover.sandbox);
    let owner = Record::read(&directory)?.and_then(|record| record.owner);
    let owner_lives = owner.is_some_and(|owner| owner.alive());
    if owner_lives && has_others(&directory, &leftover.container) {
        return directory.container(&leftover.container).remove();
    }
    if let Some(owner) = owner {
        owner.kill()?;
    }
    directory.remove()
}

fn has_others(directory: &SandboxDirectory, container: &ContainerId) -> bool {
    let Ok(entries) = fs::read_dir(directory.share()) else { return false };
    entries.flatten().any(|entry| entry.file_name() != container.as_str())
}
