//! Running out of memory.

use std::time::Duration;

use conformance::{Daemon, Listener};

use crate::Case;
use crate::life::{removed_with, state};

pub(crate) const CASES: &[Case] = &[
    ("memory: a process that takes too much is killed, and told of while others run", oom),
    ("memory: an init that takes too much ends with 137, after the news of it", oom_of_init),
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
