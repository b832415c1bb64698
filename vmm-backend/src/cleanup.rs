//! Clean-up from outside: after a crash, or for a daemon that has given a container up.

use std::fs;
use std::path::Path;

use runtime_api::{ContainerId, Result, ResultExt, SandboxId};

use crate::host_cgroup::HostCgroup;
use crate::layout::SandboxDirectory;
use crate::process_identity::ProcessIdentity;
use crate::record::{ProcessRecord, Record};

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
    let owner = Record::read(&directory.record())?.and_then(|record| record.owner);
    let owner_lives = owner.is_some_and(ProcessIdentity::is_alive);
    if owner_lives && has_others(&directory, &leftover.container) {
        return directory.container(&leftover.container).remove();
    }
    if let Some(owner) = owner {
        owner.kill()?;
    }
    directory.remove()
}

/// Removes the sandboxes in `state_dir` that nobody can attach to: their machine has gone, or never
/// came to be ready, or no daemon was told of a container in it. What cannot be removed is logged, and
/// stays for the next time.
pub(crate) fn sweep(state_dir: &Path) -> Result<()> {
    let reading = || format!("read {}", state_dir.display());
    for entry in fs::read_dir(state_dir).internal(reading)? {
        let name = entry.internal(reading)?.file_name();
        let Ok(sandbox) = SandboxId::parse(name.to_string_lossy()) else { continue };
        let directory = SandboxDirectory::of(state_dir, &sandbox);
        let machine = Record::read(&directory.record()).map(|record| record?.machine);
        let removed = match machine {
            Ok(Some(machine)) if machine.vmm.is_alive() && is_known(&directory) => continue,
            Ok(machine) => machine
                .map_or(Ok(()), |machine| machine.vmm.kill())
                .and_then(|()| remove_dead(&directory)),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => log::info!(
                "sandbox {sandbox} of an earlier run is removed: it had died, or nobody knew of it"
            ),
            Err(error) => log::error!("remove sandbox {sandbox}: {}", error.chain()),
        }
    }
    Ok(())
}

/// Whether a daemon can have a token of one of its containers.
fn is_known(directory: &SandboxDirectory) -> bool {
    match ProcessRecord::read_all(&directory.processes()) {
        Ok(records) => records.iter().any(|record| record.created),
        // What cannot be read must not cost a container its life.
        Err(error) => {
            log::warn!("{}", error.chain());
            true
        }
    }
}

/// Removes a sandbox without a machine, and the VMM of one that was killed while it started it.
pub(crate) fn remove_dead(directory: &SandboxDirectory) -> Result<()> {
    for vmm in vmms_of(directory.path()) {
        vmm.kill()?;
    }
    let cgroup = Record::read(&directory.record()).ok().flatten().and_then(|record| record.cgroup);
    if let Some(cgroup) = cgroup {
        HostCgroup::at(cgroup).remove();
    }
    directory.remove()
}

/// The processes whose arguments name a socket in `directory`.
fn vmms_of(directory: &Path) -> Vec<ProcessIdentity> {
    let socket = format!("path={}/", directory.display());
    let names_it = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&socket)
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(names_it)
        .filter_map(ProcessIdentity::of)
        .collect()
}

fn has_others(directory: &SandboxDirectory, container: &ContainerId) -> bool {
    let Ok(entries) = fs::read_dir(directory.share()) else { return false };
    entries.flatten().any(|entry| entry.file_name() != container.as_str())
}
