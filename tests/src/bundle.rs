//! OCI bundles as daemons make them, with busybox as the root filesystem.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// What the root filesystem can run.
const APPLETS: &[&str] = &[
    "cat", "dd", "echo", "env", "grep", "head", "hostname", "httpd", "id", "kill", "ls", "md5sum",
    "mkdir", "nc", "printf", "seq", "sh", "sleep", "stat", "stty", "tail", "touch", "tr", "true",
    "tty", "umount", "wc", "yes",
];

/// A bundle whose `config.json` a case may change before it is written.
pub struct Bundle {
    /// The OCI runtime specification.
    pub spec: Value,
}

impl Bundle {
    /// Runs `args` as root, as a daemon would by default.
    pub fn running(args: &[&str]) -> Self {
        let kinds =
            ["pid", "ipc", "uts", "mount", "network", "cgroup"].map(|kind| json!({"type": kind}));
        let mount = |kind: &str, at: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": at, "options": options});
        let spec = json!({
            "ociVersion": "1.1.0",
            "process": process(args),
            "root": {"path": "rootfs"},
            "hostname": "box",
            "mounts": [
                mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
                mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
                mount("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]),
            ],
            "linux": {"namespaces": kinds, "resources": {"pids": {"limit": 100}}},
        });
        Self { spec }
    }

    /// Puts the container into the sandbox of another one, as containerd and CRI-O say it.
    #[must_use]
    pub fn in_sandbox(mut self, sandbox: &str) -> Self {
        self.spec["annotations"] = json!({
            "io.kubernetes.cri.sandbox-id": sandbox,
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri-o.SandboxID": sandbox,
            "io.kubernetes.cri-o.ContainerType": "container",
        });
        self
    }

    /// Writes it below `directory` and answers where it is.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let bundle = directory.join(name);
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for below in ["dev", "proc", "tmp", "etc", "root"] {
            fs::create_dir_all(bundle.join("rootfs").join(below)).unwrap();
        }
        // Some runtimes give the mode of a directory to what is mounted on it.
        fs::set_permissions(bundle.join("rootfs/tmp"), Permissions::from_mode(0o1777)).unwrap();
        fs::copy(busybox(), bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        fs::write(bundle.join("config.json"), self.spec.to_string()).unwrap();
        bundle
    }
}

/// A `process` object.
pub fn process(args: &[&str]) -> Value {
    let capabilities =
        ["CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"];
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities
        },
        "noNewPrivileges": true
    })
}

/// The static busybox that the test image was made from, taken out of it.
fn busybox() -> PathBuf {
    static PATH: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    PATH.get_or_init(|| {
        let archive = crate::daemon::part("VMRT_TEST_IMAGE");
        let directory = archive.with_extension("unpacked");
        let unpack = |archive: &Path, into: &Path| {
            fs::create_dir_all(into).unwrap();
            let tar = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status();
            tar.expect("run tar").success()
        };
        assert!(unpack(&archive, &directory), "unpack {}", archive.display());
        let root = directory.join("root");
        let blobs = fs::read_dir(directory.join("blobs/sha256")).unwrap().flatten();
        for blob in blobs.map(|blob| blob.path()) {
            // A layer is a tar file, what describes it is not.
            if fs::read(&blob).unwrap().first() != Some(&b'{') {
                assert!(unpack(&blob, &root), "unpack {}", blob.display());
            }
        }
        root.join("bin/busybox")
    })
    .clone()
}
