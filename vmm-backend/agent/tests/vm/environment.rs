//! What a process is given: the specification, item by item.

use serde_json::json;

use crate::bundle::{Bundle, process};
use crate::guest::{Guest, exec, init};
use crate::in_a_guest;

#[test]
fn a_process_is_given_what_its_specification_says() {
    in_a_guest(async |guest| {
        let root = guest.run("plain", &["sh", "-c", SURVEY]).await;
        assert_eq!((root.code, root.text().as_str()), (0, SURVEYED), "{root:?}");
        user_and_capabilities(guest).await;
        read_only_root(guest).await;
        large_environment(guest).await;
    });
}

/// Each line tells one thing; `SURVEYED` is what a container of containerd's would answer.
const SURVEY: &str = "id -u; id -g; id -G; echo $COLOUR; echo $HOME; pwd; hostname; echo $$
ulimit -n; grep -c . /proc/self/mounts | grep -q . && echo mounts
grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status
grep SigIgn /proc/self/status
mkdir /tmp/x 2>&1; cat /data/file; touch /data/y 2>&1
cat /proc/keys | wc -c; touch /proc/sys/kernel/hostname 2>&1
ls /sys/fs/cgroup | grep -c memory.max
ls /dev/pts /dev/mqueue /dev/shm >/dev/null && echo devices
cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l";

/// The two ignored signals are those that glibc keeps to itself in whatever it spawns; SIGPIPE, which
/// Rust ignores, is not among them.
const SURVEYED: &str = "0\n0\n0 10\ngreen\n/\n/\nbox\n1\n1000\nmounts
CapEff:\t00000000000020e1
NoNewPrivs:\t1
Seccomp:\t2
SigIgn:\t0000000180000000
mkdir: can't create directory '/tmp/x': Operation not permitted
from the volume
touch: /data/y: Read-only file system
0
touch: /proc/sys/kernel/hostname: Read-only file system
1
devices
0
4";

async fn user_and_capabilities(guest: &Guest) {
    let survey = "id -u; id -g; id -G; pwd; grep -E '^Cap(Eff|Prm|Bnd):' /proc/self/status;
        echo again > /dev/stdout; mkdir /tmp/y 2>&1; cat /proc/self/oom_score_adj";
    let expected = "1000\n100\n100 7\n/tmp
CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000020
again\nmkdir: can't create directory '/tmp/y': Operation not permitted\n-5";
    let user = |args: &[&str]| {
        let mut process = process(args);
        process["user"] = json!({"uid": 1000, "gid": 100, "additionalGids": [7]});
        process["capabilities"] =
            json!({"bounding": ["CAP_KILL"], "effective": [], "permitted": []});
        process["cwd"] = json!("/tmp");
        process["oomScoreAdj"] = json!(-5);
        process
    };
    let mut bundle = Bundle::running("user", &[]);
    bundle.spec["process"] = user(&["sh", "-c", survey]);
    let outcome = guest.run_bundle("user", &bundle).await;
    assert_eq!((outcome.code, outcome.text().as_str()), (0, expected), "{outcome:?}");

    // The same, as an additional process, and without the bit that makes the filter easy to load.
    guest.create("host", &["sleep", "1000"]).await.unwrap();
    guest.tasks_start("host").await;
    for locked in [true, false] {
        let mut process = user(&["sh", "-c", survey]);
        process["noNewPrivileges"] = json!(locked);
        let outcome = guest.run_exec(&exec("host", "e"), process).await.unwrap();
        assert_eq!((outcome.code, outcome.text().as_str()), (0, expected), "{outcome:?}");
    }
    guest.dispose("host").await;
}

async fn read_only_root(guest: &Guest) {
    let mut bundle = Bundle::running("ro", &["sh", "-c", "touch /x; touch /dev/shm/x && echo shm"]);
    bundle.spec["root"]["readonly"] = json!(true);
    let outcome = guest.run_bundle("ro", &bundle).await;
    assert_eq!(outcome.text(), "shm");
    assert_eq!(outcome.stderr, b"touch: /x: Read-only file system\n");
}

/// What a helper has locked in memory must not count against a process that may lock none.
async fn large_environment(guest: &Guest) {
    let mut bundle = Bundle::running("large", &["sh", "-c", "ulimit -l; echo ${#V599}"]);
    let process = &mut bundle.spec["process"];
    process["capabilities"] = json!({"bounding": [], "effective": [], "permitted": []});
    process["rlimits"] = json!([{"type": "RLIMIT_MEMLOCK", "soft": 0, "hard": 0}]);
    let variables = process["env"].as_array_mut().unwrap();
    variables.extend((0..600).map(|number| json!(format!("V{number}={}", "x".repeat(1500)))));
    let outcome = guest.run_bundle("large", &bundle).await;
    assert_eq!((outcome.code, outcome.text().as_str()), (0, "0\n1500"), "{outcome:?}");
}

impl Guest {
    pub(crate) async fn tasks_start(&self, name: &str) {
        runtime_api::Runtime::start(&self.tasks, &init(name)).await.unwrap();
    }
}
