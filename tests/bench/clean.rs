//! Taking everything down again, whatever state it is in, and the search for what stays.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use conformance::{HostProcess, eventually};

use crate::bench::{Bench, DELETERS, each};
use crate::command::run_regardless;

/// What one client command may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// How much of a command line is shown.
const SHOWN: usize = 160;

impl Bench {
    /// Takes every container away, and ends what does not go. Answers what had to be ended.
    pub(crate) fn clear(&self) -> Vec<String> {
        let list = |what| {
            let listed = self.quietly(&[what, "ls", "-q"]);
            listed.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
        };
        let (tasks, containers): (Vec<String>, Vec<String>) = (list("task"), list("container"));
        each(&tasks, DELETERS, |id| self.quietly(&["task", "rm", "-f", id]));
        each(&containers, DELETERS, |id| self.quietly(&["container", "rm", id]));
        eventually(Duration::from_secs(5), || self.pods().is_empty());
        let left = self.pods();
        for process in &left {
            let _ = Command::new("kill").args(["-9", &process.pid.to_string()]).status();
        }
        for process in left.iter().filter(|process| process.command.contains("containerd-shim")) {
            self.delete_after(process);
        }
        let shown =
            |process: &HostProcess| format!("process {} {:.SHOWN$}", process.pid, process.command);
        left.iter().map(shown).collect()
    }

    /// Lets a killed shim's own `delete` take away what is left of it, as the daemon would.
    fn delete_after(&self, shim: &HostProcess) {
        let words: Vec<_> = shim.command.split(' ').collect();
        let after = |flag: &str| {
            words.iter().skip_while(|word| **word != flag).nth(1).copied().unwrap_or_default()
        };
        let bundle = self.daemon.bundle(after("-id"));
        let mut delete = Command::new(words[0]);
        for flag in ["-namespace", "-id", "-address"] {
            delete.args([flag, after(flag)]);
        }
        delete.arg("-bundle").arg(&bundle).arg("delete").current_dir(&bundle);
        // What it cannot remove is found and named later.
        let _ = run_regardless(delete, DEADLINE);
    }

    fn quietly(&self, words: &[&str]) -> Option<String> {
        let finished = run_regardless(self.daemon.ctr(words).into_command(), DEADLINE);
        finished.ok().map(|finished| finished.text())
    }

    /// Ends everything and answers what was left behind.
    pub(crate) fn end(self) -> Vec<String> {
        let mut left = self.clear();
        let Self { daemon, group, leaks, name, .. } = self;
        let directory = daemon.directory().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| point.starts_with(&directory)) {
            left.push(format!("mount {point}"));
            let _ = Command::new("umount").args(["-l", point]).status();
        }
        drop(daemon);
        // Empty, and runc never removes it.
        let _ = fs::remove_dir(format!("/run/containerd/runc/{name}"));
        drop(group);
        left.extend(leaks.found_where(|thing| {
            thing.contains(&name) || thing.contains(&directory) || is_dead_socket(thing)
        }));
        left
    }
}

/// Whether a thing that was found is a shim's socket that nobody listens to any more. A machine may
/// have other daemons, whose sockets come and go meanwhile.
fn is_dead_socket(thing: &str) -> bool {
    let path = thing.strip_prefix("file ").filter(|path| path.starts_with("/run/containerd/s/"));
    path.is_some_and(|path| UnixStream::connect(path).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_without_a_server_is_dead() {
        assert!(is_dead_socket("file /run/containerd/s/nobody"));
        assert!(!is_dead_socket("file /run/vmrt/nobody"));
        assert!(!is_dead_socket("mount /run/containerd/s/nobody"));
    }
}
