//! A daemon that dies, and comes back.

use std::time::Duration;

use conformance::{Daemon, eventually};

use crate::Case;
use crate::life::{becomes, removed_with, shim_of, state};

pub(crate) const CASES: &[Case] = &[
    ("containerd is killed and comes back: tasks stay, an exit meanwhile is kept", daemon_killed),
    ("the shim is killed while containerd is down: nothing is left", shim_killed_meanwhile),
];

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
