//! What must not be left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::processes;

/// Where shims put the sockets of their servers.
const SOCKETS: &str = "/run/containerd/s";
/// Where sandboxes have their directories.
const STATE: &str = "/run/vmrt";
/// Files of the state directory that outlive sandboxes by design.
const KEPT: [&str; 1] = ["accelerator"];

/// Waits until `condition` holds; false when it does not within `limit`.
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// What was on the machine before the suite began.
pub struct Leaks {
    before: BTreeSet<String>,
}

impl Leaks {
    /// Remembers what is there now.
    pub fn remember() -> Self {
        Self { before: everything() }
    }

    /// What is there now and was not there before, after up to five seconds' grace.
    pub fn found(&self) -> Vec<String> {
        self.found_where(|_| true)
    }

    /// Of what [`found`](Self::found) finds, what `ours` says yes to: a machine may have other users.
    pub fn found_where(&self, ours: impl Fn(&str) -> bool) -> Vec<String> {
        let new = || -> Vec<String> {
            let all = everything();
            all.difference(&self.before).filter(|thing| ours(thing)).cloned().collect()
        };
        eventually(Duration::from_secs(5), || new().is_empty());
        new()
    }
}

/// Everything that names `word`, after up to five seconds' grace.
pub fn left_of(word: &str) -> Vec<String> {
    let named = || -> Vec<String> {
        everything().into_iter().filter(|thing| thing.contains(word)).collect()
    };
    eventually(Duration::from_secs(5), || named().is_empty());
    named()
}

/// Removes the mounts that are left at and below a directory, the latest first.
pub fn unmount_below(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    // By whole names: a directory called 1 has nothing to do with one called 10.
    for point in points.iter().rev().filter(|point| Path::new(point).starts_with(root)) {
        let _ = Command::new("umount").args(["-l", point]).status();
    }
}

fn everything() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for process in processes() {
        if process.command.contains("qemu-system") || process.command.contains("containerd-shim") {
            all.insert(format!("process {} {}", process.pid, process.command));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    for line in mounts.lines().filter(|line| line.contains("vmrt")) {
        let point = line.split(' ').nth(4).unwrap_or_default();
        all.insert(format!("mount {point}"));
    }
    files_below(Path::new(SOCKETS), &mut all);
    files_below(Path::new(STATE), &mut all);
    for entry in fs::read_dir("/sys/class/net").expect("read /sys/class/net").flatten() {
        all.insert(format!("interface {}", entry.file_name().display()));
    }
    all
}

fn files_below(directory: &Path, all: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if KEPT.iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        all.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_below(&entry.path(), all);
        }
    }
}
