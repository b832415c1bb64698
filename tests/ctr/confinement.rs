//! What a process may do and see, from the inside, compared with the reference runtime.

use conformance::{Daemon, IMAGE};
use serde_json::json;

use crate::Case;
use crate::spec::run_spec;

pub(crate) const CASES: &[Case] = &[
    ("user, groups, environment, directory, limits and host name", identity),
    ("capabilities, seccomp and no-new-privileges are as under runc", privileges),
    ("limits and masked paths are as under runc", limits),
    ("a read-only root filesystem is read-only", read_only),
    ("of the host nothing is seen: no process, mount or file", host_unseen),
];

const REFERENCE: &str = "io.containerd.runc.v2";

fn identity(daemon: &Daemon, id: &str) {
    let seen = run_spec(daemon, id, |spec| {
        let process = &mut spec["process"];
        process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8]});
        process["cwd"] = json!("/tmp");
        process["env"] = json!(["PATH=/bin", "COLOUR=red and blue"]);
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        let script = "id -u; id -g; id -G; pwd; echo $COLOUR; ulimit -Sn; ulimit -Hn; hostname; \
                      touch mine; stat -c %u:%g mine; grep CapEff /proc/self/status";
        process["args"] = json!(["/bin/busybox", "sh", "-c", script]);
        spec["hostname"] = json!("box");
    });
    let lines: Vec<_> = seen.lines().collect();
    let expected =
        ["1000", "1001", "1001 7 8", "/tmp", "red and blue", "100", "200", "box", "1000:1001"];
    assert_eq!(lines[..expected.len()], expected);
    // Who is not root has capabilities only as far as they are ambient.
    assert_eq!(lines[expected.len()], "CapEff:\t0000000000000000");
}

/// Runs the same under vmrt and under runc and expects the same output.
fn as_under_runc(daemon: &Daemon, id: &str, options: &[&str], script: &str) -> String {
    let under_runc = format!("{id}-runc");
    let mut arguments = vec!["run", "--rm", "--runtime", REFERENCE];
    arguments.extend(options);
    arguments.extend([IMAGE, &under_runc, "sh", "-c", script]);
    let expected = daemon.ctr(&arguments).succeeds().text();
    let mut options = options.to_vec();
    options.push("--rm");
    let seen = daemon.run(id, &options, &["sh", "-c", script]).succeeds().text();
    assert_eq!(seen, expected, "options {options:?}");
    seen
}

fn privileges(daemon: &Daemon, id: &str) {
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let variants: [&[&str]; 3] = [&[], &["--seccomp"], &["--cap-add", "CAP_SYS_TIME"]];
    for (number, options) in variants.into_iter().enumerate() {
        let id = format!("{id}-{number}");
        let seen = as_under_runc(daemon, &id, options, script);
        assert!(seen.contains("CapEff"), "{seen}");
        daemon.leaves_nothing(&id);
    }
    let blocked = daemon.run(id, &["--rm", "--seccomp"], &["unshare", "-U", "true"]).quiet();
    assert_ne!(blocked.code, 0, "seccomp lets unshare through");
}

fn limits(daemon: &Daemon, id: &str) {
    let script = "ulimit -n; head -c 1 /proc/kcore | wc -c; ls /proc/scsi /sys/firmware | wc -l; \
                  touch /proc/sys/kernel/x 2>/dev/null; echo $?; hostname | wc -l";
    as_under_runc(daemon, id, &[], script);
}

fn read_only(daemon: &Daemon, id: &str) {
    let script = "touch /new; echo $?; touch /dev/shm/new; echo $?";
    let outcome = daemon.run(id, &["--rm", "--read-only"], &["sh", "-c", script]).succeeds();
    assert_eq!(outcome.text(), "1\n0");
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}

fn host_unseen(daemon: &Daemon, id: &str) {
    let script = "ls -d /proc/[0-9]* | wc -l; echo --; cat /proc/mounts; echo --; ls /";
    let seen = daemon.run(id, &["--rm"], &["sh", "-c", script]).succeeds().text();
    let parts: Vec<_> = seen.split("--\n").collect();
    // The shell and the two ends of the pipe.
    assert!(parts[0].trim().parse::<u32>().unwrap() <= 3, "{seen}");
    for word in ["/var/lib", "/run/containerd", "overlay", "/dev/vd", "ext4"] {
        assert!(!parts[1].contains(word), "{word} in:\n{}", parts[1]);
    }
    assert!(!parts[2].lines().any(|name| name == "boot" || name == "init"), "{seen}");
}
