//! The control group of a VMM, apart from that of the daemon which has started it.
//!
//! ```text
//!   /sys/fs/cgroup[/<controller>]/<parent>/vmrt-<sandbox>/
//! ```
//!
//! It is made in every hierarchy that is mounted, of version 1 or 2 (cgroups(7)), next to the groups of
//! the pod's containers, so that what the VM uses counts as the pod's.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use runtime_api::SandboxId;

/// How long a process that has been killed, and is no longer seen, may still count as there.
const EXIT_DEADLINE: Duration = Duration::from_secs(1);

/// Where groups are made for pods that name none.
const DEFAULT_PARENT: &str = "/vmrt";

/// The group of a sandbox, by its path below the root of each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostCgroup(PathBuf);

impl HostCgroup {
    /// The group of `sandbox`, whose containers have theirs at `sibling` (`linux.cgroupsPath` of the
    /// OCI runtime specification; a path, or `slice:prefix:name` for systemd).
    pub(crate) fn beside(sibling: Option<&Path>, sandbox: &SandboxId) -> Self {
        let parent = sibling.and_then(parent_of).unwrap_or_else(|| DEFAULT_PARENT.into());
        Self(parent.join(format!("vmrt-{sandbox}")))
    }

    /// The one of this path, as an earlier run has made it.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path below the root of each hierarchy.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the group and moves a process there. What a hierarchy refuses is logged: the process
    /// stays where it was then.
    pub(crate) fn admit(&self, pid: u32) {
        for directory in self.directories() {
            let moved = fs::create_dir_all(&directory)
                .and_then(|()| fs::write(directory.join("cgroup.procs"), pid.to_string()));
            if let Err(error) = moved {
                log::warn!("move process {pid} to {}: {error}", directory.display());
                let _ = fs::remove_dir(&directory);
            }
        }
    }

    /// Removes the group, which nothing is in any more. Idempotent.
    pub(crate) fn remove(&self) {
        for directory in self.directories() {
            if let Err(error) = remove_empty(&directory) {
                log::warn!("remove {}: {error}", directory.display());
            }
            // Nobody else makes this one.
            if let Some(parent) = directory.parent().filter(|path| path.ends_with("vmrt")) {
                let _ = fs::remove_dir(parent);
            }
        }
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = self.0.strip_prefix("/").unwrap_or(&self.0);
        hierarchies(&mounts).map(|root| root.join(below)).collect()
    }
}

/// Removes a group that nothing is in, or what is in it is about to have ended.
fn remove_empty(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EXIT_DEADLINE;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            removed => return removed,
        }
    }
}

/// The mount points of hierarchies in which a group can be used as soon as it is made. A new group of
/// the cpuset controller of version 1 has neither processors nor memory.
fn hierarchies(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut of_filesystem = after.split(' ');
        let kind = of_filesystem.next()?;
        let controllers = of_filesystem.nth(1).unwrap_or_default();
        let usable = match kind {
            "cgroup2" => true,
            "cgroup" => !controllers.split(',').any(|one| one == "cpuset"),
            _ => false,
        };
        usable.then(|| before.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

/// The group above that of a container.
fn parent_of(sibling: &Path) -> Option<PathBuf> {
    let plain = |path: &Path| {
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    };
    match sibling.to_str()?.split_once(':') {
        None => sibling
            .parent()
            .filter(|parent| parent.is_absolute() && plain(parent))
            .map(Path::to_owned),
        Some((slice, _)) => slice_path(slice).filter(|path| plain(path)),
    }
}

/// Where systemd has a slice: each `-` in its name is a step down (systemd.slice(5)).
fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    let mut path = PathBuf::from("/");
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}.slice", name.get(..at).filter(|part| !part.is_empty())?));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_beside_those_of_the_pods_containers() {
        let sandbox = SandboxId::parse("pod").unwrap();
        for (sibling, path) in [
            (None, "/vmrt/vmrt-pod"),
            (Some("/kubepods/pod1/c"), "/kubepods/pod1/vmrt-pod"),
            (
                Some("kubepods-burstable-pod1.slice:crio:c"),
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/vmrt-pod",
            ),
            (Some("relative/c"), "/vmrt/vmrt-pod"),
            (Some("/a/../../c"), "/vmrt/vmrt-pod"),
            (Some("no-slice:crio:c"), "/vmrt/vmrt-pod"),
        ] {
            let group = HostCgroup::beside(sibling.map(Path::new), &sandbox);
            assert_eq!(group.path(), Path::new(path), "{sibling:?}");
        }
    }

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mounts = "1 2 0:1 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
                      1 2 0:1 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      1 2 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      1 2 0:1 / /proc rw - proc proc rw\n";
        let found: Vec<_> = hierarchies(mounts).collect();
        assert_eq!(found, ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from));
    }
}
