//! Bundles as containerd makes them, with busybox as the root filesystem.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

const APPLETS: &[&str] = &[
    "basename", "cat", "dd", "echo", "env", "grep", "head", "hostname", "id", "kill", "ls",
    "md5sum", "mkdir", "mount", "ps", "pwd", "sh", "sleep", "stty", "touch", "tr", "true", "tty",
    "ulimit", "wc", "yes",
];

/// A specification that a case may change before it is written.
pub(crate) struct Bundle {
    pub(crate) spec: Value,
}

impl Bundle {
    /// Runs `args` as root, with everything that containerd sets by default.
    pub(crate) fn running(id: &str, args: &[&str]) -> Self {
        let namespace = |kind| json!({"type": kind});
        let kinds = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
        let spec = json!({
            "ociVersion": "1.1.0",
            "process": process(args),
            "root": {"path": "rootfs"},
            "hostname": "box",
            "mounts": mounts(),
            "linux": {
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 134_217_728},
                    "cpu": {"shares": 512},
                    "pids": {"limit": 100}
                },
                "cgroupsPath": format!("/default/{id}"),
                "namespaces": kinds.map(namespace),
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [{
                        "names": ["mkdir", "mkdirat"],
                        "action": "SCMP_ACT_ERRNO",
                        "errnoRet": 1
                    }]
                },
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
            }
        });
        Self { spec }
    }

    pub(crate) fn write(&self, directory: &Path) {
        if directory.exists() {
            fs::remove_dir_all(directory).unwrap();
        }
        let bin = directory.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for below in ["etc", "tmp", "data", "root"] {
            fs::create_dir_all(directory.join("rootfs").join(below)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        fs::create_dir_all(directory.join("volume")).unwrap();
        fs::write(directory.join("volume/file"), "from the volume\n").unwrap();
        fs::write(directory.join("config.json"), self.spec.to_string()).unwrap();
    }
}

/// A `process` object.
pub(crate) fn process(args: &[&str]) -> Value {
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_RAW"];
    json!({
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
        "args": args,
        "env": ["PATH=/bin:/sbin", "COLOUR=green"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1000}],
        "noNewPrivileges": true
    })
}

fn mounts() -> Value {
    let mount = |kind: &str, destination: &str, source: &str, options: &[&str]| json!({"type": kind, "destination": destination, "source": source, "options": options});
    let safe = ["nosuid", "noexec", "nodev"];
    json!([
        mount("proc", "/proc", "proc", &safe),
        mount("tmpfs", "/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount("tmpfs", "/dev/shm", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
        mount("mqueue", "/dev/mqueue", "mqueue", &safe),
        mount("sysfs", "/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "cgroup",
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        ),
        mount("tmpfs", "/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("bind", "/data", "volume", &["rbind", "ro"]),
    ])
}
