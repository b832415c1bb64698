//! Every failure reaches the user of `ctr` as one clear line, and leaves nothing.

use std::fs;
use std::time::Duration;

use conformance::{Daemon, left_of};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    ("a missing executable fails at create", missing_executable),
    ("a working directory that is a file fails at create", bad_directory),
    ("the host's network is refused", host_network),
    ("QEMU is missing", no_qemu),
    ("the guest's kernel is missing", no_kernel),
    ("the guest image is corrupt", corrupt_image),
    ("the configuration has an unknown key", unknown_key),
    ("the configuration file is missing", no_configuration),
    ("the host does not have the memory", no_memory),
    ("the guest does not answer in time", boot_deadline),
    ("the client goes away while the VM boots: nothing is left", abandoned),
];

fn missing_executable(daemon: &Daemon, id: &str) {
    daemon.run(id, &["--rm"], &["/nope"]).fails_naming(&["/nope"]);
    assert!(!daemon.ctr(&["task", "ls"]).succeeds().text().contains(id));
}

fn bad_directory(daemon: &Daemon, id: &str) {
    daemon.run(id, &["--rm", "--cwd", "/bin/busybox"], &["true"]).fails_naming(&["/bin/busybox"]);
    assert!(!daemon.ctr(&["task", "ls"]).succeeds().text().contains(id));
}

fn host_network(daemon: &Daemon, id: &str) {
    daemon.run(id, &["--rm", "--net-host"], &["true"]).fails_naming(&["network"]);
}

/// Runs with a configuration of its own and expects a line with these words.
fn with_configuration(daemon: &Daemon, id: &str, text: &str, words: &[&str]) {
    let scratch = daemon.scratch();
    let path = daemon.configuration(scratch.path(), text);
    let options = ["--rm", "--runtime-config-path", &path];
    daemon.run(id, &options, &["true"]).fails_naming(words);
}

fn no_qemu(daemon: &Daemon, id: &str) {
    with_configuration(daemon, id, "qemu = \"/no/such/qemu\"", &["/no/such/qemu"]);
}

fn no_kernel(daemon: &Daemon, id: &str) {
    with_configuration(daemon, id, "guest_image = \"/no/image\"", &["/no/image/vmlinux"]);
}

fn corrupt_image(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    fs::write(scratch.path().join("vmlinux"), "no kernel").unwrap();
    fs::write(scratch.path().join("initramfs.img"), "no initramfs").unwrap();
    let image = scratch.path().display().to_string();
    let kernel = format!("{image}/vmlinux");
    with_configuration(daemon, id, &format!("guest_image = {image:?}"), &[&kernel]);
}

fn unknown_key(daemon: &Daemon, id: &str) {
    with_configuration(daemon, id, "colour = 1", &["colour"]);
}

fn no_configuration(daemon: &Daemon, id: &str) {
    let options = ["--rm", "--runtime-config-path", "/no/such.toml"];
    daemon.run(id, &options, &["true"]).fails_naming(&["/no/such.toml"]);
}

fn no_memory(daemon: &Daemon, id: &str) {
    with_configuration(daemon, id, "memory_mib = 4000000", &["memory"]);
}

fn boot_deadline(daemon: &Daemon, id: &str) {
    let text = "boot_timeout_s = 1\naccelerator = \"tcg\"\nkernel_parameters = [\"rdinit=/none\"]";
    with_configuration(daemon, id, text, &["virtual machine"]);
}

fn abandoned(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let boots = daemon.configuration(scratch.path(), "templates = false");
    let options = ["--rm", "--runtime-config-path", &boots];
    daemon.run(id, &options, &["true"]).abandoned_after(Duration::from_millis(1500));
    let left = left_of(id);
    assert!(left.is_empty(), "left of {id}: {left:#?}");
}
