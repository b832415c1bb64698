//! What dies, and what is told of it.

use std::time::{Duration, Instant};

use conformance::{Daemon, Listener, eventually};

use crate::Case;
use crate::life::{becomes, removed_with, shim_of, state, vmm_of};

pub(crate) const CASES: &[Case] = &[
    ("memory: a process that takes too much is killed, and told of while others run", oom),
    ("memory: an init that takes too much ends with 137, after the news of it", oom_of_init),
    ("a frozen guest is found by its silence", frozen),
    ("a guest's kernel panics: the task ends with 137 within a second", panicked),
    ("containerd is killed and comes back: tasks stay, an exit meanwhile is kept", daemon_killed),
    ("the shim is killed while containerd is down: nothing is left", shim_killed_meanwhile),
];

/// Events of a container, in the order in which they come, up to the one of this topic.
fn topics(listener: &mut Listener, id: &str, last: &str) -> Vec<String> {
    let quoted = format!("{id:?}");
    let topic = |line: &String| {
        let words = line.split_whitespace().find(|word| word.starts_with("/tasks/"));
        words.filter(|_| line.contains(&quoted)).map(str::to_owned)
    };
    let seen = listener.until(Duration::from_secs(20), |lines| {
        lines.iter().filter_map(topic).any(|topic| topic == last)
    });
    seen.iter().filter_map(topic).collect()
}

const LIMIT: [&str; 3] = ["-d", "--memory-limit", "33554432"];

fn oom(daemon: &Daemon, id: &str) {
    let mut listener = daemon.listen();
    daemon.run(id, &LIMIT, &["sh", "-c", "tail /dev/zero; sleep 1000"]).succeeds();
    assert_eq!(
        topics(&mut listener, id, "/tasks/oom"),
        ["/tasks/create", "/tasks/start", "/tasks/oom"]
    );
    assert_eq!(state(daemon, id), "RUNNING");
    // For daemons without events.
    assert!(daemon.bundle(id).join("oom").exists());
}

fn oom_of_init(daemon: &Daemon, id: &str) {
    let mut listener = daemon.listen();
    daemon.run(id, &LIMIT, &["tail", "/dev/zero"]).succeeds();
    let order = ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"];
    assert_eq!(topics(&mut listener, id, "/tasks/exit"), order);
    removed_with(daemon, id, 137);
}

fn frozen(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let path = daemon.configuration(scratch.path(), "heartbeat_timeout_s = 3");
    daemon.run(id, &["-d", "--runtime-config-path", &path], &["sleep", "1000"]).succeeds();
    // It is not taken for frozen when it only has nothing to tell.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(state(daemon, id), "RUNNING");
    let began = Instant::now();
    vmm_of(id).signal("STOP");
    becomes(daemon, id, "STOPPED");
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    removed_with(daemon, id, 137);
}

fn panicked(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d", "--privileged"], &["sleep", "1000"]).succeeds();
    let began = Instant::now();
    // The client of an exec that takes its kernel with it has nothing to report.
    let crash = ["task", "exec", "--exec-id", "e", id, "sh", "-c", "echo c >/proc/sysrq-trigger"];
    daemon.ctr(&crash).quiet();
    becomes(daemon, id, "STOPPED");
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    removed_with(daemon, id, 137);
}

fn daemon_killed(_: &Daemon, id: &str) {
    let mut daemon = Daemon::start_apart("restart");
    let (stays, ends) = (format!("{id}-stays"), format!("{id}-ends"));
    daemon.run(&stays, &["-d"], &["sleep", "1000"]).succeeds();
    daemon.run(&ends, &["-d"], &["sh", "-c", "sleep 2; exit 42"]).succeeds();
    daemon.crash();
    std::thread::sleep(Duration::from_secs(3));
    daemon.come_back();
    assert_eq!(state(&daemon, &stays), "RUNNING");
    daemon.ctr(&["task", "exec", "--exec-id", "e", &stays, "true"]).succeeds();
    becomes(&daemon, &ends, "STOPPED");
    removed_with(&daemon, &ends, 42);
    daemon.leaves_nothing(&ends);
    daemon.leaves_nothing(&stays);
}

fn shim_killed_meanwhile(_: &Daemon, id: &str) {
    let mut daemon = Daemon::start_apart("orphans");
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    daemon.crash();
    shim_of(id).signal("KILL");
    daemon.come_back();
    let gone = || matches!(state(&daemon, id).as_str(), "" | "STOPPED" | "UNKNOWN");
    assert!(eventually(Duration::from_secs(10), gone), "{}", state(&daemon, id));
    daemon.leaves_nothing(id);
}
