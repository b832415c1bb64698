//! What a specification can ask for, beyond what the client has flags for.

use std::fs;

use conformance::{Ctr, Daemon, RUNTIME};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Case;
use crate::volumes::rootfs_of_image;

pub(crate) const CASES: &[Case] = &[
    ("hooks of the host run in order and are told the state", hooks),
    ("a hook that fails makes the creation fail with what it says", failing_hook),
    ("a hook for the inside of the container is refused by name", hook_inside),
    ("kernel parameters of the pod and of its namespaces are set, others are refused", sysctls),
    ("limits of a process: all that are asked for", rlimits),
    ("a user namespace: root inside is nobody outside", user_namespace),
    ("virtual devices are there, one of the host is refused by name", devices),
    ("privileged: all rights in the VM, and none of the host's devices", privileged),
];

/// A container of a spec that is the client's, changed; the files of the case live as long as it does.
pub(crate) struct FromSpec {
    _scratch: TempDir,
    path: String,
}

impl FromSpec {
    /// Writes the spec, for the host's own copy of busybox.
    pub(crate) fn new(daemon: &Daemon, id: &str, change: impl FnOnce(&mut Value)) -> Self {
        let scratch = daemon.scratch();
        let root = rootfs_of_image(daemon, scratch.path());
        let spec = daemon.ctr(&["oci", "spec"]).succeeds().text();
        let mut spec: Value = serde_json::from_str(&spec).unwrap();
        spec["root"]["path"] = json!(root);
        spec["linux"]["cgroupsPath"] = json!(format!("/suite/{id}"));
        shell(&mut spec, "true");
        change(&mut spec);
        let path = scratch.path().join("spec.json");
        fs::write(&path, spec.to_string()).unwrap();
        let path = path.display().to_string();
        Self { _scratch: scratch, path }
    }

    /// The command that runs it.
    pub(crate) fn run(&self, daemon: &Daemon, id: &str) -> Ctr {
        daemon.ctr(&["run", "--rm", "--runtime", RUNTIME, "--config", &self.path, id])
    }
}

/// Runs such a container to its end.
pub(crate) fn run_spec(daemon: &Daemon, id: &str, change: impl FnOnce(&mut Value)) -> String {
    FromSpec::new(daemon, id, change).run(daemon, id).succeeds().text()
}

fn shell(spec: &mut Value, script: &str) {
    spec["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]);
}

/// A hook that is a script of the host's shell.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 10})
}

fn hooks(daemon: &Daemon, id: &str) {
    let log = daemon.scratch();
    let path = log.path().join("log").display().to_string();
    let container = FromSpec::new(daemon, id, |spec| {
        shell(spec, "sleep 1");
        spec["annotations"] = json!({"org.example.colour": "red"});
        for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
            spec["hooks"][stage] = json!([hook(&format!("echo {stage} $(cat) >>{path}"))]);
        }
    });
    container.run(daemon, id).succeeds();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<(&str, Value)> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(stage, state)| (stage, serde_json::from_str(state).unwrap()))
        .collect();
    let told: Vec<_> =
        lines.iter().map(|(stage, state)| (*stage, state["status"].as_str().unwrap())).collect();
    let expected = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    assert_eq!(told, expected);
    for (stage, state) in &lines {
        assert_eq!(state["id"], id);
        assert_eq!(state["annotations"]["org.example.colour"], "red");
        let pid = state["pid"].as_u64();
        assert_eq!(pid.is_some_and(|pid| pid > 0), *stage != "poststop", "{stage}: {state}");
    }
}

fn failing_hook(daemon: &Daemon, id: &str) {
    let log = daemon.scratch();
    let path = log.path().join("log");
    let container = FromSpec::new(daemon, id, |spec| {
        spec["hooks"]["createRuntime"] = json!([hook("echo no luck >&2; exit 3")]);
        spec["hooks"]["poststop"] = json!([hook(&format!("echo stopped >{}", path.display()))]);
    });
    container.run(daemon, id).fails_naming(&["hook /bin/sh", "code 3", "no luck"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "stopped\n");
}

fn hook_inside(daemon: &Daemon, id: &str) {
    let container = FromSpec::new(daemon, id, |spec| {
        spec["hooks"]["startContainer"] = json!([hook("true")]);
    });
    container.run(daemon, id).fails_naming(&["startContainer", "/bin/sh"]);
}

fn sysctls(daemon: &Daemon, id: &str) {
    let seen = run_spec(daemon, id, |spec| {
        spec["linux"]["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "80",
            "kernel.shm_rmid_forced": "1",
            "kernel.msgmax": "4096",
            "fs.mqueue.msg_max": "20",
        });
        shell(
            spec,
            "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced \
             kernel/msgmax fs/mqueue/msg_max",
        );
    });
    assert_eq!(seen, "80\n1\n4096\n20");
    let other = format!("{id}-other");
    let container = FromSpec::new(daemon, &other, |spec| {
        spec["linux"]["sysctl"] = json!({"vm.overcommit_memory": "1"});
    });
    container.run(daemon, &other).fails_naming(&["vm.overcommit_memory"]);
    daemon.leaves_nothing(&other);
}

fn rlimits(daemon: &Daemon, id: &str) {
    let limits =
        [("NOFILE", "n", 100), ("NPROC", "u", 90), ("CORE", "c", 0), ("STACK", "s", 4 << 20)];
    let seen = run_spec(daemon, id, |spec| {
        let limit = |(name, _, value): (&str, &str, u64)| json!({"type": format!("RLIMIT_{name}"), "soft": value, "hard": value});
        spec["process"]["rlimits"] = json!(limits.map(limit));
        let ask = limits.map(|(_, flag, _)| format!("ulimit -H{flag}"));
        shell(spec, &ask.join("; "));
    });
    // The shell counts the stack in KiB, and core files in its own blocks.
    assert_eq!(seen, "100\n90\n0\n4096");
}

fn user_namespace(daemon: &Daemon, id: &str) {
    let seen = run_spec(daemon, id, |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
        shell(spec, "id -u; cat /proc/self/uid_map; stat -c %u /proc/sys/kernel/ostype");
    });
    let words: Vec<_> = seen.split_whitespace().collect();
    // What belongs to the guest's root belongs to nobody inside.
    assert_eq!(words, ["0", "0", "100000", "65536", "65534"]);
}

fn devices(daemon: &Daemon, id: &str) {
    let script = "for name in null zero full random urandom tty; do \
                  [ -c /dev/$name ] && echo $name; done; echo x >/dev/full; head -c 3 /dev/zero | wc -c";
    let outcome = daemon.run(id, &["--rm", "--device", "/dev/null"], &["sh", "-c", script]);
    let outcome = outcome.succeeds();
    assert_eq!(outcome.text(), "null\nzero\nfull\nrandom\nurandom\ntty\n3");
    assert!(outcome.stderr.contains("No space left"), "{}", outcome.stderr);
    let other = format!("{id}-other");
    let refused = daemon.run(&other, &["--rm", "--device", "/dev/kmsg"], &["true"]);
    refused.fails_naming(&["/dev/kmsg"]);
    daemon.leaves_nothing(&other);
}

fn privileged(daemon: &Daemon, id: &str) {
    let script = "grep CapEff /proc/self/status; mkdir /m && mount -t tmpfs none /m && echo mounted; \
                  ls /dev; echo --; cat /proc/cmdline";
    let outcome = daemon.run(id, &["--rm", "--privileged"], &["sh", "-c", script]).succeeds();
    let text = outcome.text();
    let (first, rest) = text.split_once("mounted\n").unwrap_or_else(|| panic!("{outcome:?}"));
    let all = u64::from_str_radix(first.trim().trim_start_matches("CapEff:").trim(), 16).unwrap();
    assert!(all.count_ones() >= 38, "{first}");
    let (names, command_line) = rest.split_once("--\n").unwrap();
    for device in ["kmsg", "mem", "vda", "kvm", "loop0"] {
        assert!(!names.lines().any(|name| name == device), "{device} in {names}");
    }
    assert_ne!(command_line.trim(), fs::read_to_string("/proc/cmdline").unwrap().trim());
}
