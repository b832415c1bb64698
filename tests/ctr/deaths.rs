//! However a virtual machine ends: every container of it has ended with 137, whoever waits is told,
//! and the events come in order.

use std::thread;
use std::time::{Duration, Instant};

use conformance::{Ctr, Daemon, Listener};
use serde_json::{Value, json};

use crate::Case;
use crate::life::{becomes, removed_with, vmm_of};
use crate::spec::FromSpec;

pub(crate) const CASES: &[Case] = &[
    ("the VMM is killed: everything in it ends with 137 within a second", vmm_killed),
    ("the guest's kernel panics: everything in it ends with 137 within a second", panic),
    ("the agent crashes: everything in it ends with 137 within a second", agent_crashed),
    ("the guest freezes: everything in it ends with 137 at the deadline", frozen),
    ("the VMM is killed: state, metrics and processes are told until the task is deleted", told),
];

/// What a dead machine may take to be noticed.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Ends the machine of a container, which `run` runs, and of an exec, both of which are waited for.
fn ends(daemon: &Daemon, id: &str, run: Ctr, limit: Duration, kill: impl FnOnce()) {
    let mut listener = daemon.listen();
    let took = thread::scope(|scope| {
        let init = scope.spawn(move || run.ends_with(137));
        heard(&mut listener, "/tasks/start", id, 1);
        let exec = ["task", "exec", "--exec-id", "late", id, "sleep", "1000"];
        let exec = scope.spawn(move || daemon.ctr(&exec).ends_with(137));
        heard(&mut listener, "/tasks/exec-started", id, 1);
        let began = Instant::now();
        kill();
        init.join().unwrap();
        exec.join().unwrap();
        began.elapsed()
    });
    assert!(took < limit, "it was noticed after {took:?}");
    let ended = |line: &String| line.contains("137");
    let mut exits = heard(&mut listener, "/tasks/exit", id, 2);
    // Another exec may have been what did it.
    exits.retain(|line| !line.contains(KILLER));
    assert!(exits.len() == 2 && exits.iter().all(ended), "{exits:#?}");
    assert!(exits[0].contains("\"late\""), "the init's exit was told first: {exits:#?}");
}

/// Waits for so many events of a topic.
fn heard(listener: &mut Listener, topic: &str, id: &str, count: usize) -> Vec<String> {
    let wanted = |line: &&String| {
        let named = line.contains(&format!("{id:?}")) && !line.contains(KILLER);
        named && line.split_whitespace().any(|word| word == topic)
    };
    let enough = |all: &[String]| all.iter().filter(wanted).count() == count;
    let seen = listener.until(Duration::from_secs(30), enough);
    assert!(enough(&seen), "{topic} has not come {count} times: {seen:#?}");
    seen.iter().filter(wanted).cloned().collect()
}

fn run(daemon: &Daemon, id: &str, options: &[&str]) -> Ctr {
    daemon.run(id, &[&["--rm"], options].concat(), &["sleep", "1000"])
}

fn vmm_killed(daemon: &Daemon, id: &str) {
    ends(daemon, id, run(daemon, id, &[]), AT_ONCE, || vmm_of(id).signal("KILL"));
}

fn told(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let metrics = || daemon.ctr(&["task", "metrics", "--format", "json", id]).succeeds().text();
    let alive = metrics();
    let used = |text: &str| -> u64 {
        let all: Value = serde_json::from_str(text).unwrap();
        all["cpu"]["usage_usec"].as_u64().or_else(|| all["cpu"]["usage"]["total"].as_u64()).unwrap()
    };
    assert_ne!(used(&alive), 0, "{alive}");
    vmm_of(id).signal("KILL");
    becomes(daemon, id, "STOPPED");
    assert_eq!(used(&metrics()), used(&alive));
    let processes = daemon.ctr(&["task", "ps", id]).succeeds().text();
    assert_eq!(processes.lines().count(), 1, "only the heading: {processes}");
    removed_with(daemon, id, 137);
}

/// The exec that ends a guest from inside.
const KILLER: &str = "killer";

fn by_script(daemon: &Daemon, id: &str, script: &str) {
    daemon.ctr(&["task", "exec", "--exec-id", KILLER, id, "sh", "-c", script]).quiet();
}

fn panic(daemon: &Daemon, id: &str) {
    ends(daemon, id, run(daemon, id, &["--privileged"]), AT_ONCE, || {
        by_script(daemon, id, "echo c >/proc/sysrq-trigger");
    });
}

/// Overwrites the code of the guest's first process, by one that shares its pid namespace and may.
fn agent_crashed(daemon: &Daemon, id: &str) {
    let container = FromSpec::new(daemon, id, |spec| {
        spec["process"]["args"] = json!(["/bin/busybox", "sleep", "1000"]);
        for set in ["bounding", "effective", "permitted"] {
            let capabilities = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            capabilities.push(json!("CAP_SYS_PTRACE"));
        }
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let run = container.run(daemon, id);
    let script = "set -- $(grep -m1 ' r-xp ' /proc/1/maps); from=$((0x${1%-*})); \
                  to=$((0x$(echo $1 | cut -d- -f2))); \
                  dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((from / 4096)) \
                  count=$(((to - from) / 4096)) conv=notrunc";
    ends(daemon, id, run, AT_ONCE, || by_script(daemon, id, script));
}

fn frozen(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let path = daemon.configuration(scratch.path(), "heartbeat_timeout_s = 6");
    let limit = Duration::from_secs(6) + AT_ONCE;
    let run = run(daemon, id, &["--runtime-config-path", path.as_str()]);
    ends(daemon, id, run, limit, || vmm_of(id).signal("STOP"));
}
