//! The control group that everything measured is in.
//!
//! ```text
//! <hierarchy>/<name>/            its processor time, with that of every group below, living or gone
//!     driver/                    the bench, hence its clients, the daemon, every shim and VMM
//!     <container>/               made by runc for its container: the client names it <namespace>/<id>,
//!                                and the namespace has the name of the group
//! ```
//!
//! So nothing is left out: not even `runc init`, which runs in the container's group before it turns
//! into the container's process. The `sleep` that it turns into costs nothing worth counting. The
//! bench is in the group itself, for then whatever it starts is born there; between two readings it
//! only waits for its client.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq)]
enum Hierarchy {
    /// cgroup v1, with its controllers among other mount options.
    V1(PathBuf, Vec<String>),
    /// cgroup v2.
    V2(PathBuf),
}

/// Where the processor time is read.
#[derive(Clone, Debug, PartialEq)]
enum Meter {
    /// `cpuacct.usage`, nanoseconds.
    Accounting(PathBuf),
    /// `usage_usec` of `cpu.stat`, which every group has whatever controllers are on.
    Unified(PathBuf),
}

/// The group, with this process in it until it is dropped.
pub(crate) struct CpuGroup {
    meter: Meter,
    /// What to remove: runc makes groups of this name in every hierarchy.
    everywhere: Vec<PathBuf>,
    /// Where this process goes back to.
    home: PathBuf,
}

impl CpuGroup {
    /// Makes the group and enters it.
    ///
    /// # Errors
    /// When there is no hierarchy that counts processor time, or it cannot be written to.
    pub(crate) fn enter(name: &str) -> Result<Self, Failure> {
        let mounts = read("/proc/self/mountinfo".as_ref())?;
        let hierarchies = hierarchies(&mounts);
        let found = meter(&hierarchies);
        let found = found.ok_or_else(|| {
            Failure::Unexpected("no cgroup hierarchy counts processor time".into())
        })?;
        Self::enter_below(&hierarchies, found, name)
    }

    fn enter_below(all: &[Hierarchy], chosen: &Hierarchy, name: &str) -> Result<Self, Failure> {
        let everywhere = all.iter().map(|hierarchy| hierarchy.point().join(name)).collect();
        let point = chosen.point();
        let home = point.join(own_group(chosen)?.trim_start_matches('/'));
        let home = if home.is_dir() { home } else { point.to_owned() };
        let meter = match chosen {
            Hierarchy::V1(point, _) => Meter::Accounting(point.join(name)),
            Hierarchy::V2(point) => Meter::Unified(point.join(name)),
        };
        // From here on dropping it takes everything back.
        let group = Self { meter, everywhere, home };
        let driver = group.path().join("driver");
        fs::create_dir_all(&driver)
            .map_err(|source| Failure::io(format!("make {}", driver.display()), source))?;
        join(&driver)?;
        Ok(group)
    }

    fn path(&self) -> &Path {
        match &self.meter {
            Meter::Accounting(path) | Meter::Unified(path) => path,
        }
    }

    /// The processor time of everything that ever was in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let (file, time) = match &self.meter {
            Meter::Accounting(path) => {
                let file = path.join("cpuacct.usage");
                let time = read(&file)?.trim().parse().ok().map(Duration::from_nanos);
                (file, time)
            }
            Meter::Unified(path) => {
                let file = path.join("cpu.stat");
                let text = read(&file)?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                (file, usage.and_then(|usage| usage.parse().ok()).map(Duration::from_micros))
            }
        };
        time.ok_or_else(|| Failure::Unexpected(format!("{} has no time in it", file.display())))
    }

    /// The processes in it and in every group below.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        visit(self.path(), &mut |group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
        pids
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        let _ = join(&self.home);
        // A process that has just ended keeps its group for a moment.
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            for group in &self.everywhere {
                visit(group, &mut |group| drop(fs::remove_dir(group)));
            }
            if !self.everywhere.iter().any(|group| group.exists()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Hierarchy {
    fn point(&self) -> &Path {
        match self {
            Self::V1(point, _) | Self::V2(point) => point,
        }
    }
}

/// The hierarchies of a mountinfo (proc(5)).
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = PathBuf::from(place.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        match kind.next()? {
            "cgroup2" => Some(Hierarchy::V2(point)),
            "cgroup" => {
                let options = kind.nth(1)?.split(',').map(str::to_owned).collect();
                Some(Hierarchy::V1(point, options))
            }
            _ => None,
        }
    };
    mounts.lines().filter_map(parse).collect()
}

/// Where there is a v1 hierarchy with accounting, runc uses it; a v2 one beside it is for systemd.
fn meter(hierarchies: &[Hierarchy]) -> Option<&Hierarchy> {
    let accounts = |hierarchy: &&Hierarchy| matches!(hierarchy, Hierarchy::V1(_, options) if options.iter().any(|o| o == "cpuacct"));
    let unified = |hierarchy: &&Hierarchy| matches!(hierarchy, Hierarchy::V2(_));
    hierarchies.iter().find(accounts).or_else(|| hierarchies.iter().find(unified))
}

/// The group of this process in a hierarchy (cgroups(7), /proc/\[pid\]/cgroup).
fn own_group(hierarchy: &Hierarchy) -> Result<String, Failure> {
    let text = read("/proc/self/cgroup".as_ref())?;
    let ours = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let matches = match hierarchy {
            Hierarchy::V1(..) => controllers.split(',').any(|name| name == "cpuacct"),
            Hierarchy::V2(_) => controllers.is_empty(),
        };
        matches.then(|| path.to_owned())
    };
    Ok(text.lines().find_map(ours).unwrap_or_default())
}

/// Moves this process into a group.
fn join(group: &Path) -> Result<(), Failure> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string())
        .map_err(|source| Failure::io(format!("write to {}", file.display()), source))
}

/// Calls `see` for every group from the deepest to `group` itself.
fn visit(group: &Path, see: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), see);
        }
    }
    if group.exists() {
        see(group);
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|source: io::Error| Failure::io(format!("read {}", path.display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const HYBRID: &str = "\
24 1 0:22 / /proc rw,relatime - proc proc rw
30 29 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 29 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory";

    #[test]
    fn v1_accounting_is_preferred_to_a_v2_hierarchy_beside_it() {
        let all = hierarchies(HYBRID);
        assert_eq!(all.len(), 3);
        let chosen = meter(&all).unwrap();
        assert_eq!(chosen.point(), Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let unified = hierarchies("30 29 0:26 / /sys/fs/cgroup rw - cgroup2 none rw");
        assert_eq!(meter(&unified), Some(&Hierarchy::V2("/sys/fs/cgroup".into())));
        assert_eq!(meter(&hierarchies("24 1 0:22 / /proc rw - proc proc rw")), None);
    }

    /// Both ways of counting, as far as this machine has their hierarchies: it needs root, and a
    /// group is only entered by the whole process, so that all is one test.
    #[test]
    fn the_time_of_a_child_is_counted_and_the_group_goes_away() {
        let all = hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        for hierarchy in &all {
            let counts = meter(std::slice::from_ref(hierarchy)).is_some();
            let name = format!("bench-test-{}", std::process::id());
            let path = hierarchy.point().join(&name);
            if !counts || fs::create_dir(&path).is_err() {
                continue;
            }
            let group = CpuGroup::enter_below(&all, hierarchy, &name).unwrap();
            assert!(group.pids().contains(&std::process::id()));
            let before = group.cpu().unwrap();
            let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
            assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
            let spent = group.cpu().unwrap() - before;
            assert!(spent > Duration::from_millis(20), "{spent:?} in {hierarchy:?}");
            drop(group);
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}
