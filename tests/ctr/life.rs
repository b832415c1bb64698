//! The life of a container.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conformance::{Daemon, HostProcess, eventually, processes};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    ("run: the exit code arrives and the streams stay apart", exit_code),
    ("run: the container has a kernel of its own", kernel),
    ("run -d: ls, kill, rm", detached),
    ("events: create, start, exit and delete come in this order", events),
    ("ten containers at once, each with its own output", ten_at_once),
    ("the pid that a daemon is told lives, in a network namespace of its own", pid),
    ("init of a pid namespace: SIGTERM to a plain sleep has no effect", pid_one),
    ("paused: no exec, no second pause, and a kill ends it; a running one is not resumed", paused),
    ("a stopped task can be deleted and started again", again),
    ("the shim is killed: the task ends with 137 and nothing is left", shim_killed),
    ("the guest's clock shows the host's time and runs at its speed", clock),
    ("an idle shim takes under 4 MiB and at most 3 threads", idle_shim),
];

fn exit_code(daemon: &Daemon, id: &str) {
    let outcome = daemon.run(id, &["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 42"]);
    let outcome = outcome.ends_with(42);
    assert_eq!((outcome.text().as_str(), outcome.stderr.trim()), ("out", "err"));
}

fn kernel(daemon: &Daemon, id: &str) {
    let guest = daemon.run(id, &["--rm"], &["uname", "-r"]).succeeds().text();
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(!guest.is_empty());
    assert_ne!(guest, host.trim());
}

/// The state that `ctr task ls` shows, and the pid.
fn listed(daemon: &Daemon, id: &str) -> Option<(String, u32)> {
    let list = daemon.ctr(&["task", "ls"]).succeeds().text();
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
    let fields: Vec<_> = line.split_whitespace().collect();
    Some((fields[2].to_owned(), fields[1].parse().unwrap()))
}

pub(crate) fn state(daemon: &Daemon, id: &str) -> String {
    listed(daemon, id).map(|(state, _)| state).unwrap_or_default()
}

pub(crate) fn becomes(daemon: &Daemon, id: &str, wanted: &str) {
    let limit = Duration::from_secs(10);
    assert!(
        eventually(limit, || state(daemon, id) == wanted),
        "{id} is {:?}, not {wanted}",
        state(daemon, id)
    );
}

/// Deletes a stopped task and expects this exit code, which the client tells of in a warning.
pub(crate) fn removed_with(daemon: &Daemon, id: &str, code: u32) {
    let outcome = daemon.ctr(&["task", "rm", id]).succeeds();
    let told = format!("exit code {code}\"");
    assert!(outcome.stderr.contains(&told), "{code} in: {}", outcome.stderr);
}

fn detached(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    assert_eq!(state(daemon, id), "RUNNING");
    daemon.ctr(&["task", "rm", id]).fails_naming(&[id]);
    daemon.ctr(&["task", "kill", "-s", "9", id]).succeeds();
    becomes(daemon, id, "STOPPED");
    removed_with(daemon, id, 137);
    assert_eq!(listed(daemon, id), None);
    daemon.ctr(&["container", "rm", id]).succeeds();
}

fn events(daemon: &Daemon, id: &str) {
    let mut listener = daemon.listen();
    daemon.run(id, &["--rm"], &["true"]).succeeds();
    let ours = |line: &&String| line.contains(&format!("{id:?}")) && line.contains("/tasks/");
    let complete = |seen: &[String]| seen.iter().any(|line| line.contains("/tasks/delete"));
    let seen = listener.until(Duration::from_secs(10), |all| {
        complete(&all.iter().filter(ours).cloned().collect::<Vec<_>>())
    });
    let topics: Vec<_> = seen
        .iter()
        .filter(ours)
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("/tasks/")))
        .collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
}

fn ten_at_once(daemon: &Daemon, id: &str) {
    thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || {
                let id = format!("{id}-{number}");
                let script = format!("echo {number}; exit {number}");
                let outcome = daemon.run(&id, &["--rm"], &["sh", "-c", &script]).ends_with(number);
                assert_eq!(outcome.text(), number.to_string());
                daemon.leaves_nothing(&id);
            });
        }
    });
}

fn pid(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let (_, pid) = listed(daemon, id).unwrap();
    // Clients put interfaces into the namespace of this process: it must not be the host's.
    let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(pid), network(std::process::id()));
}

fn pid_one(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    daemon.ctr(&["task", "kill", "-s", "15", id]).succeeds();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(state(daemon, id), "RUNNING");
    daemon.ctr(&["task", "kill", "-s", "9", id]).succeeds();
    becomes(daemon, id, "STOPPED");
}

fn paused(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let task = |action: &str| daemon.ctr(&["task", action, id]);
    task("resume").fails_naming(&[id, "failed precondition"]);
    task("pause").succeeds();
    assert_eq!(state(daemon, id), "PAUSED");
    let exec = ["task", "exec", "--exec-id", "e", id, "true"];
    daemon.ctr(&exec).fails_naming(&[id, "failed precondition"]);
    task("pause").fails_naming(&[id, "failed precondition"]);
    task("resume").succeeds();
    daemon.ctr(&exec).succeeds();
    task("pause").succeeds();
    daemon.ctr(&["task", "kill", "-s", "9", id]).succeeds();
    becomes(daemon, id, "STOPPED");
    removed_with(daemon, id, 137);
}

fn again(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sh", "-c", "exit 7"]).succeeds();
    becomes(daemon, id, "STOPPED");
    removed_with(daemon, id, 7);
    daemon.ctr(&["task", "start", "-d", id]).succeeds();
    becomes(daemon, id, "STOPPED");
    removed_with(daemon, id, 7);
}

fn clock(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let guest = |word: &str, exec: &str| -> f64 {
        let words = ["task", "exec", "--exec-id", exec, id, "sh", "-c", word];
        let text = daemon.ctr(&words).succeeds().text();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let date = guest("date +%s", "date");
    assert!((host - 2.0..host + 30.0).contains(&date), "{date} in the guest, {host} on the host");
    let before = Instant::now();
    let first = guest("cat /proc/uptime", "first");
    let between = Instant::now();
    thread::sleep(Duration::from_secs(3));
    let least = between.elapsed().as_secs_f64();
    let passed = guest("cat /proc/uptime", "last") - first;
    let most = before.elapsed().as_secs_f64();
    assert!(passed > least * 0.98 && passed < most * 1.02, "{passed} s, not {least} to {most} s");
}

pub(crate) fn shim_of(id: &str) -> HostProcess {
    let ours = |process: &HostProcess| {
        process.command.contains("containerd-shim-vmrt") && process.command.contains(id)
    };
    processes().into_iter().find(ours).expect("a shim")
}

pub(crate) fn vmm_of(id: &str) -> HostProcess {
    let ours = |process: &HostProcess| {
        process.command.contains("qemu-system") && process.command.contains(id)
    };
    processes().into_iter().find(ours).expect("a VMM")
}

fn shim_killed(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let vmm = vmm_of(id).pid;
    shim_of(id).signal("KILL");
    let alive = || processes().iter().any(|process| process.pid == vmm);
    assert!(
        eventually(Duration::from_secs(1), || !alive()),
        "the VMM outlives its shim by a second"
    );
    let gone = || matches!(state(daemon, id).as_str(), "" | "STOPPED" | "UNKNOWN");
    assert!(eventually(Duration::from_secs(5), gone), "{}", state(daemon, id));
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn idle_shim(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    // A pool thread that the start may have needed ends by itself when it is idle.
    eventually(Duration::from_secs(15), || shim_of(id).threads <= 1);
    let shim = shim_of(id);
    println!("idle shim: {} KiB PSS, {} threads", shim.pss(), shim.threads);
    assert!(shim.pss() < 4096, "{} KiB", shim.pss());
    assert!(shim.threads <= 3, "{} threads", shim.threads);
}
