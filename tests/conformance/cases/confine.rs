//! What a process is given and kept from.

use std::fs;

use conformance::Bundle;
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("a process has its user, groups, directory and mask", "config.md: user", identity),
    case!("a process has its environment and nothing else", "Behaviour: --env", environment),
    case!("a container has its host name", "config.md: hostname", hostname),
    case!("a read-only root is read-only, its mounts are not", "Behaviour: --read-only", read_only),
    case!("a process has the limits that it was given", "config.md: rlimits", rlimits),
    case!("a process has the capabilities that it was given", "Behaviour: caps", capabilities),
    case!(
        "a process that may not gain privileges says so",
        "config.md: noNewPrivileges",
        privileges
    ),
    case!("kernel parameters of its namespaces are set", "config.md: sysctl", sysctl),
    case!("the devices that every container has are there", "config.md: devices", devices),
    case!("a device that was asked for is there", "Behaviour: --device", device),
    case!(
        "masked paths are empty, read-only paths are read-only",
        "config.md: maskedPaths",
        masked
    ),
    case!("a bind mount shares a directory with the host", "Behaviour: --mount", bind),
    case!("a read-only bind mount is read-only", "Behaviour: --mount ro", bind_read_only),
    case!("a bind mount of one file", "Behaviour: --mount file", bind_file),
    case!("a tmpfs has its size", "Behaviour: --mount tmpfs", tmpfs),
    case!("a container sees only its own processes", "pid namespace", own_processes),
    case!("a container has only a loopback interface", "Behaviour: default net", loopback),
    case!("a seccomp filter holds", "Behaviour: --seccomp", seccomp),
    case!("a score for the killer of processes is set", "config.md: oomScoreAdj", score),
    case!("what a container writes into its root is in its bundle", "rootfs", writes),
];

/// Runs `script` in a container whose specification `change` has changed.
async fn shows(context: &Context, script: &str, out: &str, change: impl FnOnce(&mut Value)) {
    let mut bundle = Bundle::running(&["sh", "-c", script]);
    change(&mut bundle.spec);
    let mut container = context.create_with(&bundle, Wanted::default()).await;
    let ran = container.run().await;
    context.expect("output", ran.out, out.to_owned());
    context.expect("code", ran.code, 0);
}

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

async fn identity(context: &Context) {
    let script = "id -u; id -g; id -G; pwd; umask; touch mine; stat -c %u:%g:%a mine";
    let out = "1000\n1001\n1001 7 8\n/tmp\n0027\n1000:1001:640\n";
    shows(context, script, out, |spec| {
        let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 23});
        spec["process"]["user"] = user;
        spec["process"]["cwd"] = json!("/tmp");
    })
    .await;
}

async fn environment(context: &Context) {
    let mut bundle = Bundle::running(&["env"]);
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "COLOUR=red and blue", "EMPTY="]);
    let mut container = context.create_with(&bundle, Wanted::default()).await;
    let ran = container.run().await;
    let mut names: Vec<_> = ran.out.lines().collect();
    names.sort_unstable();
    // Runtimes may add where the home of the user is.
    names.retain(|name| !name.starts_with("HOME="));
    context.expect("names", names, vec!["COLOUR=red and blue", "EMPTY=", "PATH=/bin"]);
}

async fn hostname(context: &Context) {
    shows(context, "hostname", "a-name\n", |spec| spec["hostname"] = json!("a-name")).await;
}

async fn read_only(context: &Context) {
    let script = "touch /new 2>/dev/null; echo $?; touch /tmp/new; echo $?";
    shows(context, script, "1\n0\n", |spec| spec["root"]["readonly"] = json!(true)).await;
}

async fn rlimits(context: &Context) {
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc";
    shows(context, script, "100\n200\n0\n0\n", |spec| {
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]);
    })
    .await;
}

async fn capabilities(context: &Context) {
    let script = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status";
    // CAP_CHOWN is 0, CAP_KILL 5, CAP_SETGID 6, CAP_SETUID 7, CAP_NET_BIND_SERVICE 10.
    let set = |name: &str, bits: u64| format!("Cap{name}:\t{bits:016x}\n");
    let out =
        [set("Inh", 0), set("Prm", 0x4e1), set("Eff", 0x4e1), set("Bnd", 0x4e1), set("Amb", 0)];
    shows(context, script, &out.concat(), |_| {}).await;
}

async fn privileges(context: &Context) {
    shows(context, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n", |_| {}).await;
}

async fn sysctl(context: &Context) {
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    shows(context, script, "99\n4096\n", |spec| {
        spec["linux"]["sysctl"] =
            json!({"net.ipv4.ip_unprivileged_port_start": "99", "kernel.msgmax": "4096"});
    })
    .await;
}

async fn devices(context: &Context) {
    let script = "for name in null zero full random urandom tty; do \
                  stat -c '%n %F %t:%T %a' /dev/$name; done; \
                  echo lost >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
                  ls -l /dev/fd/0 >/dev/null && echo fd";
    let device =
        |name: &str, numbers: &str| format!("/dev/{name} character special file {numbers} 666\n");
    let out = [
        device("null", "1:3"),
        device("zero", "1:5"),
        device("full", "1:7"),
        device("random", "1:8"),
        device("urandom", "1:9"),
        device("tty", "5:0"),
        "3\n3\nfd\n".to_owned(),
    ];
    shows(context, script, &out.concat(), |_| {}).await;
}

async fn device(context: &Context) {
    let script = "stat -c '%F %t:%T %a %u:%g' /dev/mine; head -c 2 /dev/mine | wc -c";
    shows(context, script, "character special file 1:5 644 5:6\n2\n", |spec| {
        spec["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1,
            "minor": 5, "fileMode": 0o644, "uid": 5, "gid": 6}]);
        spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    })
    .await;
}

async fn masked(context: &Context) {
    let script = "head -c 1 /proc/kcore | wc -c; ls /sys/firmware 2>/dev/null | wc -l; \
                  (echo 1 >/proc/sys/kernel/panic) 2>/dev/null; echo $?";
    shows(context, script, "0\n0\n1\n", |spec| {
        spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/sys/firmware", "/proc/not-there"]);
        spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    })
    .await;
}

/// A directory of the host, with one file in it.
fn volume(context: &Context) -> std::path::PathBuf {
    let volume = context.root.join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "host\n").unwrap();
    volume
}

async fn bind(context: &Context) {
    let volume = volume(context);
    let script = "cat /mnt/file; echo guest >/mnt/new";
    shows(context, script, "host\n", |spec| {
        add_mount(
            spec,
            json!({"type": "bind", "source": volume, "destination": "/mnt",
                               "options": ["rbind", "rw"]}),
        );
    })
    .await;
    let written = fs::read_to_string(volume.join("new"));
    context.expect("written", written.unwrap_or_default(), "guest\n".to_owned());
}

async fn bind_read_only(context: &Context) {
    let volume = volume(context);
    let script = "cat /mnt/file; (echo guest >/mnt/file) 2>/dev/null; echo $?";
    shows(context, script, "host\n1\n", |spec| {
        add_mount(
            spec,
            json!({"type": "bind", "source": volume, "destination": "/mnt",
                               "options": ["rbind", "ro"]}),
        );
    })
    .await;
}

async fn bind_file(context: &Context) {
    let file = volume(context).join("file");
    let script = "cat /etc/one; echo more >>/etc/one";
    shows(context, script, "host\n", |spec| {
        add_mount(
            spec,
            json!({"type": "bind", "source": file, "destination": "/etc/one",
                               "options": ["bind", "rw"]}),
        );
    })
    .await;
    context.expect("written", fs::read_to_string(file).unwrap(), "host\nmore\n".to_owned());
}

async fn tmpfs(context: &Context) {
    let script = "head -c 3000000 /dev/zero >/mnt/file 2>/dev/null; wc -c </mnt/file";
    shows(context, script, "1048576\n", |spec| {
        add_mount(
            spec,
            json!({"type": "tmpfs", "source": "tmpfs", "destination": "/mnt",
                               "options": ["nosuid", "size=1m"]}),
        );
    })
    .await;
}

async fn own_processes(context: &Context) {
    let script = "echo $$; ls -d /proc/[0-9]* | grep -c proc";
    // The shell, and ls beside grep.
    let mut bundle = Bundle::running(&["sh", "-c", script]);
    bundle.spec["hostname"] = json!("box");
    let mut container = context.create_with(&bundle, Wanted::default()).await;
    let ran = container.run().await;
    let lines: Vec<_> = ran.out.lines().collect();
    context.expect("its own number", lines[0].to_owned(), "1".to_owned());
    let few = lines[1].parse::<u32>().unwrap() <= 3;
    context.expect("only its own", few, true);
}

async fn loopback(context: &Context) {
    let script = "grep -o '^ *[a-z0-9]*:' /proc/net/dev | tr -d ' '";
    shows(context, script, "lo:\n", |_| {}).await;
}

async fn seccomp(context: &Context) {
    let script = "mkdir /tmp/x 2>/dev/null; echo $?; touch /tmp/y; echo $?";
    shows(context, script, "1\n0\n", |spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
    })
    .await;
}

async fn score(context: &Context) {
    shows(context, "cat /proc/self/oom_score_adj", "321\n", |spec| {
        spec["process"]["oomScoreAdj"] = json!(321);
    })
    .await;
}

async fn writes(context: &Context) {
    let bundle = Bundle::running(&["sh", "-c", "echo kept >/root/file"]);
    let (request, streams) = context.request(&bundle, Wanted::default());
    let path = request.bundle.join("rootfs/root/file");
    let mut container = context.create_as(request, streams).await.unwrap();
    context.ran("init", container.run().await, 0, "");
    context.expect("the file", fs::read_to_string(path).unwrap(), "kept\n".to_owned());
}
