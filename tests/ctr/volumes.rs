//! The root filesystem and what is mounted into it.

use std::fs;
use std::path::Path;
use std::process::Command;

use conformance::Daemon;

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    ("what the container writes is in its snapshot", snapshot),
    ("bind mounts: directory read-write, directory read-only, file, tmpfs", mounts),
    ("a missing mount source fails at create and is named", missing_source),
    ("a root filesystem of the host's own: ctr run --rootfs", rootfs),
];

fn snapshot(daemon: &Daemon, id: &str) {
    let script = "echo kept >/written; chown 1000 /written; mkdir -p /deep/er; ln -s written /link; rm /etc/group";
    daemon.run(id, &[], &["sh", "-c", script]).succeeds();
    let scratch = daemon.scratch();
    let target = scratch.path().display().to_string();
    let command = daemon.ctr(&["snapshot", "mounts", &target, id]).succeeds().text();
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    let at = |name: &str| scratch.path().join(name);
    let written = fs::read_to_string(at("written"));
    let owner = fs::metadata(at("written")).map(|data| std::os::unix::fs::MetadataExt::uid(&data));
    let link = fs::read_link(at("link"));
    let (deep, removed) = (at("deep/er").is_dir(), !at("etc/group").exists());
    assert!(Command::new("umount").arg(&target).status().unwrap().success());
    assert_eq!(written.unwrap(), "kept\n");
    assert_eq!(owner.unwrap(), 1000);
    assert_eq!(link.unwrap().to_str(), Some("written"));
    assert!(deep && removed);
}

fn mounts(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    for directory in ["rw", "ro"] {
        fs::create_dir(at(directory)).unwrap();
        fs::write(format!("{}/file", at(directory)), directory).unwrap();
    }
    fs::write(at("single"), "single").unwrap();
    let bind = |source: &str, target: &str, mode: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{mode}", at(source))
    };
    let (rw, ro) = (bind("rw", "/rw", "rw"), bind("ro", "/ro", "ro"));
    let single = bind("single", "/etc/single", "ro");
    let tmpfs = "type=tmpfs,dst=/scratch,options=size=1m";
    let options = ["--rm", "--mount", &rw, "--mount", &ro, "--mount", &single, "--mount", tmpfs];
    let script = "cat /rw/file /ro/file /etc/single; echo; echo new >/rw/new; \
                  touch /ro/new 2>/dev/null; echo $?; grep -c ' /scratch tmpfs' /proc/mounts";
    let seen = daemon.run(id, &options, &["sh", "-c", script]).succeeds().text();
    assert_eq!(seen, "rwrosingle\n1\n1");
    assert_eq!(fs::read_to_string(at("rw/new")).unwrap(), "new\n");
    assert!(!scratch.path().join("ro/new").exists());
}

fn missing_source(daemon: &Daemon, id: &str) {
    let mount = "type=bind,src=/no/such/source,dst=/x,options=rbind:ro";
    daemon.run(id, &["--rm", "--mount", mount], &["true"]).fails_naming(&["/no/such/source"]);
    assert!(!daemon.ctr(&["task", "ls"]).succeeds().text().contains(id));
}

/// The root filesystem of the test image as a plain directory.
pub(crate) fn rootfs_of_image(daemon: &Daemon, directory: &Path) -> String {
    let root = directory.join("root").display().to_string();
    // Of the blobs only the layer is an archive.
    let script = r#"mkdir "$2" "$2.oci" && tar -xf "$1" -C "$2.oci" &&
        for blob in "$2.oci"/blobs/sha256/*; do tar -xf "$blob" -C "$2" 2>/dev/null; done
        test -x "$2/bin/busybox""#;
    let archive = daemon.test_image().display().to_string();
    let unpacked = Command::new("sh").args(["-c", script, "sh", &archive, &root]).status();
    assert!(unpacked.unwrap().success(), "cannot unpack {archive}");
    root
}

fn rootfs(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let root = rootfs_of_image(daemon, scratch.path());
    let runtime = "io.containerd.vmrt.v2";
    let words = ["run", "--rm", "--runtime", runtime, "--rootfs", &root, id];
    let mut arguments = words.to_vec();
    arguments.extend(["/bin/busybox", "sh", "-c", "echo here >/made; exit 3"]);
    daemon.ctr(&arguments).ends_with(3);
    assert_eq!(fs::read_to_string(format!("{root}/made")).unwrap(), "here\n");
}
