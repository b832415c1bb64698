//! When something is short: readers, memory, disk, or room for one more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use conformance::{Daemon, eventually};

use crate::Case;
use crate::life::{becomes, removed_with, state};

pub(crate) const CASES: &[Case] = &[
    ("nobody reads: the container waits, execs go on, and attach drains", nobody_reads),
    ("nobody reads: a kill ends it within a second", nobody_reads_killed),
    ("the guest's memory runs out: the greedy one is killed, the sandbox lives on", guest_memory),
    ("the disk of the state directory is full: a clear error, nothing left, and it recovers", disk),
    ("fifty containers at once", fifty),
];

fn exec_true(daemon: &Daemon, id: &str) -> bool {
    daemon.ctr(&["task", "exec", "--exec-id", "e", id, "true"]).quiet().code == 0
}

fn nobody_reads(daemon: &Daemon, id: &str) {
    // More than the pipes on the way hold together.
    let script = "head -c 3000000 /dev/zero | tr '\\0' a; exit 7";
    daemon.run(id, &["-d"], &["sh", "-c", script]).succeeds();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(state(daemon, id), "RUNNING", "somebody has taken what nobody reads");
    let echo = ["task", "exec", "--exec-id", "echo", id, "echo", "hello"];
    assert_eq!(daemon.ctr(&echo).succeeds().text(), "hello");
    // The client deletes the task when that has ended.
    let drained = daemon.ctr(&["task", "attach", id]).ends_with(7);
    assert_eq!(drained.stdout.len(), 3_000_000);
}

fn nobody_reads_killed(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["cat", "/dev/zero"]).succeeds();
    thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    daemon.ctr(&["task", "kill", "-s", "9", id]).succeeds();
    becomes(daemon, id, "STOPPED");
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    removed_with(daemon, id, 137);
}

fn guest_memory(daemon: &Daemon, id: &str) {
    // Without a limit of its own, so that it is the guest's memory that ends.
    let script = "tail /dev/zero; echo $? >/tmp/code; exec sleep 1000";
    daemon.run(id, &["-d"], &["sh", "-c", script]).succeeds();
    let code = || {
        let words = ["task", "exec", "--exec-id", "look", id, "cat", "/tmp/code"];
        daemon.ctr(&words).quiet().text() == "137"
    };
    assert!(eventually(Duration::from_secs(30), code), "the greedy one was not killed");
    assert!(daemon.bundle(id).join("oom").exists());
    assert!(exec_true(daemon, id));
    assert_eq!(state(daemon, id), "RUNNING");
}

/// A filesystem without room, for as long as it lives.
struct Full(PathBuf);

impl Full {
    fn mount(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4k,mode=0700", "tmpfs"])
            .arg(directory)
            .status();
        assert!(mount.unwrap().success());
        fs::write(directory.join("filler"), [0; 4096]).unwrap();
        Self(directory.to_owned())
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // A test that fails reports more than what this could.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// The directory in which the shims of a daemon have that of a running container.
fn state_directory(id: &str) -> PathBuf {
    let all = fs::read_dir("/run/vmrt").unwrap().flatten().map(|entry| entry.path());
    let mut ours = all.filter(|path| path.join(id).is_dir());
    ours.next().expect("a state directory")
}

fn disk(_: &Daemon, id: &str) {
    let daemon = Daemon::start_apart("full");
    let first = format!("{id}-first");
    daemon.run(&first, &["-d"], &["sleep", "1000"]).succeeds();
    let directory = state_directory(&first);
    daemon.leaves_nothing(&first);
    let full = Full::mount(&directory);
    let directory = directory.display().to_string();
    daemon.run(id, &["--rm"], &["true"]).fails_naming(&[&directory, "No space left"]);
    daemon.remove(id);
    let left = || fs::read_dir(&full.0).unwrap().count();
    assert!(eventually(Duration::from_secs(5), || left() == 1), "{} entries, not one", left());
    drop(full);
    daemon.leaves_nothing(id);
    daemon.run(id, &["--rm"], &["sh", "-c", "exit 5"]).ends_with(5);
    daemon.leaves_nothing(id);
}

/// How many are begun together; all of them live at the same time.
const TOGETHER: usize = 5;
const FIFTY: usize = 50;

fn fifty(daemon: &Daemon, id: &str) {
    let ids: Vec<_> = (0..FIFTY).map(|number| format!("{id}-{number:02}")).collect();
    let with_each = |act: &(dyn Fn(&str) + Sync)| {
        let queue = Mutex::new(ids.iter());
        thread::scope(|scope| {
            for _ in 0..TOGETHER {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap().next();
                        let Some(id) = next else { break };
                        act(id);
                    }
                });
            }
        });
    };
    with_each(&|id| {
        daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    });
    let list = daemon.ctr(&["task", "ls"]).succeeds().text();
    let running = |line: &&str| line.contains(id) && line.contains("RUNNING");
    assert_eq!(list.lines().filter(running).count(), FIFTY, "{list}");
    with_each(&|id| {
        assert!(exec_true(daemon, id), "no exec in {id}");
        daemon.ctr(&["task", "kill", "-s", "9", id]).succeeds();
        becomes(daemon, id, "STOPPED");
        removed_with(daemon, id, 137);
        daemon.remove(id);
    });
}
