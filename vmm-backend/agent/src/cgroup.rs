//! The cgroup of a container (Documentation/admin-guide/cgroup-v2.rst).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use runtime_api::{
    BlockIo, CpuStats, Error, MemoryStats, PidsStats, Result, ResultExt, Signal, Stats,
};

use crate::boot::CGROUP_ROOT;

/// How long the kernel may take to freeze, thaw or empty a cgroup.
const DEADLINE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(5);

/// Whether the processes of a cgroup run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freezer {
    Frozen,
    Thawed,
}

/// One cgroup and what is below it.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
}

/// The controllers that containers get limits from.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Offers the controllers of a cgroup to its children.
fn delegate(directory: &Path) -> io::Result<()> {
    let available = fs::read_to_string(directory.join("cgroup.controllers"))?;
    let offered: Vec<String> = available
        .split_whitespace()
        .filter(|controller| CONTROLLERS.contains(controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    fs::write(directory.join("cgroup.subtree_control"), offered.join(" "))
}

/// Makes the cgroup under which the host puts containers, and one in it that stays empty: much of
/// what the kernel does for a cgroup it does only for the first one, and never again for as long as
/// there is one.
///
/// # Errors
/// `Internal` naming the cgroup.
pub(crate) fn prepare() -> Result<()> {
    delegate(Path::new(CGROUP_ROOT)).internal(|| "offer the cgroup controllers")?;
    Cgroup::at(&Path::new(guest_api::CGROUP_PARENT).join(".first")).make()
}

/// The cgroup of the cradle whose process group is called `group`; of no container, whose id could
/// not begin like this.
pub(crate) fn of_cradle(group: Pid) -> PathBuf {
    Path::new(guest_api::CGROUP_PARENT).join(format!(".{group}"))
}

/// The directory of the cgroup at `path` of the hierarchy.
pub(crate) fn cgroup_directory(path: &Path) -> PathBuf {
    Path::new(CGROUP_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

impl Cgroup {
    /// The cgroup at `path` of the hierarchy.
    pub(crate) fn at(path: &Path) -> Self {
        Self { directory: cgroup_directory(path) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes it, with its parents; others may do the same at the same time.
    pub(crate) fn make(&self) -> Result<()> {
        // That one offers its controllers since boot. Another one may be there and not do so yet, as
        // somebody is just making it.
        let prepared = cgroup_directory(Path::new(guest_api::CGROUP_PARENT));
        if self.directory.parent() == Some(&prepared) && fs::create_dir(&self.directory).is_ok() {
            return Ok(());
        }
        let mut parents: Vec<&Path> = self.directory.ancestors().skip(1).collect();
        parents.retain(|parent| parent.starts_with(CGROUP_ROOT));
        let make = || -> io::Result<()> {
            for parent in parents.iter().rev() {
                fs::create_dir_all(parent)?;
                delegate(parent)?;
            }
            fs::create_dir_all(&self.directory)
        };
        make().internal(|| format!("make cgroup {}", self.directory.display()))
    }

    /// Kills every process in it. What is frozen dies too.
    pub(crate) fn kill(&self) -> Result<()> {
        let file = self.directory.join("cgroup.kill");
        absent_is_empty(fs::write(&file, "1"))
            .map(drop)
            .internal(|| format!("write 1 to {}", file.display()))
    }

    /// Sends a signal to every process in it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if signal == Signal::KILL {
            return self.kill();
        }
        for pid in self.processes()? {
            match send(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(error)
                        .internal(|| format!("send signal {} to {pid}", signal.number()));
                }
            }
        }
        Ok(())
    }

    /// The processes in it and below it.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for directory in self.tree().internal(|| format!("list {}", self.directory.display()))? {
            let file = directory.join("cgroup.procs");
            let text = absent_is_empty(fs::read_to_string(&file))
                .internal(|| format!("read {}", file.display()))?;
            pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
        }
        Ok(pids)
    }

    /// Freezes or thaws its processes and waits until they are.
    pub(crate) async fn freeze(&self, freezer: Freezer) -> Result<()> {
        let file = self.directory.join("cgroup.freeze");
        let (number, wanted) = match freezer {
            Freezer::Frozen => ("1", 1),
            Freezer::Thawed => ("0", 0),
        };
        fs::write(&file, number).internal(|| format!("write {number} to {}", file.display()))?;
        let reached = || self.keyed("cgroup.events").get("frozen") == Some(&wanted);
        match self.until(reached).await {
            true => Ok(()),
            false => {
                let message = format!("{:?} of {} did not come", freezer, file.display());
                // Half frozen is worse than thawed.
                fs::write(&file, "0").internal(|| format!("write 0 to {}", file.display()))?;
                Err(Error::deadline_exceeded(message))
            }
        }
    }

    /// Removes it with all cgroups below, after its last process has gone.
    pub(crate) async fn remove(&self) -> Result<()> {
        self.kill()?;
        let mut last = None;
        let removed = self
            .until(|| match self.try_remove() {
                Ok(()) => true,
                Err(error) => {
                    last = Some(error);
                    false
                }
            })
            .await;
        match (removed, last) {
            (false, Some(error)) => {
                Err(error).internal(|| format!("remove cgroup {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        // Children come after their parents in the list.
        for directory in self.tree()?.iter().rev() {
            absent_is_empty(fs::remove_dir(directory))?;
        }
        Ok(())
    }

    async fn until(&self, mut reached: impl FnMut() -> bool) -> bool {
        let poll = async {
            while !reached() {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        tokio::time::timeout(DEADLINE, poll).await.is_ok()
    }

    fn tree(&self) -> io::Result<Vec<PathBuf>> {
        let mut directories = vec![self.directory.clone()];
        let mut next = 0;
        while let Some(directory) = directories.get(next).cloned() {
            next += 1;
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                }
            }
        }
        Ok(directories)
    }

    /// How often the kernel has killed a process of it for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.keyed("memory.events").get("oom_kill").copied().unwrap_or(0)
    }

    /// What it uses. What the kernel does not tell is zero, or no limit.
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            at: SystemTime::now(),
            cpu: self.cpu(),
            memory: self.memory(),
            pids: PidsStats { current: self.number("pids.current"), limit: self.limit("pids.max") },
            io: fs::read_to_string(self.directory.join("io.stat"))
                .map(|text| text.lines().filter_map(block_io).collect())
                .unwrap_or_default(),
        }
    }

    fn cpu(&self) -> CpuStats {
        let stat = self.keyed("cpu.stat");
        let value = |key: &str| stat.get(key).copied().unwrap_or(0);
        CpuStats {
            usage: value("usage_usec"),
            user: value("user_usec"),
            system: value("system_usec"),
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
            throttled: value("throttled_usec"),
        }
    }

    fn memory(&self) -> MemoryStats {
        let (stat, events) = (self.keyed("memory.stat"), self.keyed("memory.events"));
        let value = |key: &str| stat.get(key).copied().unwrap_or(0);
        // Kernels before 5.18 have no sum of their own.
        let kernel = stat.get("kernel").copied().unwrap_or_else(|| {
            ["kernel_stack", "pagetables", "percpu", "slab", "sock"].into_iter().map(value).sum()
        });
        MemoryStats {
            usage: self.number("memory.current"),
            limit: self.limit("memory.max"),
            peak: self.number("memory.peak"),
            swap_usage: self.number("memory.swap.current"),
            swap_limit: self.limit("memory.swap.max"),
            anon: value("anon"),
            file: value("file"),
            kernel,
            inactive_anon: value("inactive_anon"),
            active_anon: value("active_anon"),
            inactive_file: value("inactive_file"),
            active_file: value("active_file"),
            page_faults: value("pgfault"),
            major_page_faults: value("pgmajfault"),
            limit_hits: events.get("max").copied().unwrap_or(0),
            oom_kills: events.get("oom_kill").copied().unwrap_or(0),
        }
    }

    fn number(&self, file: &str) -> u64 {
        self.limit(file).unwrap_or(0)
    }

    /// A file that holds a number, or `max` for none.
    fn limit(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.directory.join(file)).ok()?.trim().parse().ok()
    }

    /// A file of lines that each hold a key and a number.
    fn keyed(&self, file: &str) -> HashMap<String, u64> {
        let text = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    }
}

/// kill(2) with a number that may also be 0 or a real-time signal, for which nix has no names.
pub(crate) fn send(pid: Pid, signal: Signal) -> nix::Result<()> {
    match signal.number() {
        0 => kill(pid, None),
        number => crate::sys::kill(pid, number),
    }
}

fn absent_is_empty<T: Default>(result: io::Result<T>) -> io::Result<T> {
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
    };
    result.or_else(|error| if gone(&error) { Ok(T::default()) } else { Err(error) })
}

/// Parses a line of `io.stat`: `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn block_io(line: &str) -> Option<BlockIo> {
    let (device, fields) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut block = BlockIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read: Default::default(),
        write: Default::default(),
    };
    for (key, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
        let value = u64::from_str(value).ok()?;
        match key {
            "rbytes" => block.read.bytes = value,
            "wbytes" => block.write.bytes = value,
            "rios" => block.read.requests = value,
            "wios" => block.write.requests = value,
            _ => {}
        }
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_from_the_files_of_the_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 7\nkernel_stack 1\nslab 2\n"),
            ("memory.events", "max 1\noom_kill 2\n"),
            ("pids.current", "3\n"),
            ("pids.max", "10\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let cgroup = Cgroup { directory: directory.path().into() };
        let stats = cgroup.stats();
        assert_eq!((stats.cpu.usage, stats.cpu.throttled), (5, 0));
        assert_eq!((stats.memory.usage, stats.memory.limit), (4096, None));
        assert_eq!((stats.memory.kernel, stats.memory.oom_kills), (3, 2));
        assert_eq!((stats.pids.current, stats.pids.limit), (3, Some(10)));
        assert_eq!((stats.io[0].major, stats.io[0].write.requests), (254, 4));
    }
}
