//! Input and output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use conformance::{Daemon, noise, processes};

use crate::Case;
use crate::life::{becomes, removed_with};

pub(crate) const CASES: &[Case] = &[
    ("stdin: 5 MB arrive whole and end", stdin),
    ("stdout: 8 MiB arrive whole from a process that exits at once", stdout),
    ("stdout and stderr: both are whole when both are busy", both),
    ("log file: both streams are in it", log_file),
    ("log program: both streams, whole, and its end when the task is deleted", log_program),
    ("log program: one that is missing fails at create", log_program_missing),
    ("exec: exit code, output, user and working directory", exec),
    ("exec: the id can be used again", exec_again),
];

/// The sum that busybox in the container and coreutils on the host agree on.
fn sum_of(data: Vec<u8>) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data).unwrap();
    let output = std::process::Command::new("md5sum").arg(file.path()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned()
}

fn stdin(daemon: &Daemon, id: &str) {
    let data = noise(5_000_000);
    let outcome = daemon.run(id, &["--rm"], &["md5sum"]).input(data.clone()).succeeds();
    assert_eq!(outcome.text().split_whitespace().next().unwrap(), sum_of(data));
}

fn stdout(daemon: &Daemon, id: &str) {
    let script = "head -c 8388608 /dev/urandom >/tmp/x; md5sum </tmp/x >&2; exec cat /tmp/x";
    let outcome = daemon.run(id, &["--rm"], &["sh", "-c", script]).succeeds();
    assert_eq!(outcome.stdout.len(), 8 << 20);
    assert_eq!(outcome.stderr.split_whitespace().next().unwrap(), sum_of(outcome.stdout));
}

fn both(daemon: &Daemon, id: &str) {
    let script = "head -c 1000000 /dev/zero | tr '\\0' a >&2 & head -c 2000000 /dev/zero; wait";
    let outcome = daemon.run(id, &["--rm"], &["sh", "-c", script]).succeeds();
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (2_000_000, 1_000_000));
}

fn log_file(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let path = scratch.path().join("log");
    let uri = format!("file://{}", path.display());
    daemon.run(id, &["-d", "--log-uri", &uri], &["sh", "-c", "echo out; echo err >&2"]).succeeds();
    let complete = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.contains("out\n") && text.contains("err\n")
    };
    assert!(conformance::eventually(std::time::Duration::from_secs(10), complete));
}

/// Writes a program that logs into its own directory, and answers its URI.
fn logger(directory: &Path) -> String {
    let path = directory.join("logger");
    let script = format!(
        "#!/bin/sh\ncd {}\necho \"$*\" $CONTAINER_NAMESPACE $CONTAINER_ID >names\nexec 5>&-\n\
         cat <&3 >out & cat <&4 >err\nwait\n",
        directory.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("binary://{}?key=some%20value", path.display())
}

fn log_program(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let text = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap_or_default();
    let uri = logger(scratch.path());
    let script = "head -c 3000000 /dev/zero | tr '\\0' a; echo err >&2; exit 3";
    daemon.run(id, &["-d", "--log-uri", &uri], &["sh", "-c", script]).succeeds();
    assert_eq!(text("names"), format!("key some value {} {id}\n", daemon.namespace()));
    becomes(daemon, id, "STOPPED");
    removed_with(daemon, id, 3);
    assert_eq!((text("out").len(), text("err").as_str()), (3_000_000, "err\n"));
    let path = scratch.path().display().to_string();
    let left: Vec<_> = processes().into_iter().filter(|one| one.command.contains(&path)).collect();
    assert!(left.is_empty(), "{left:#?}");
}

fn log_program_missing(daemon: &Daemon, id: &str) {
    let options = ["-d", "--log-uri", "binary:///no/such/logger"];
    daemon.run(id, &options, &["true"]).fails_naming(&["/no/such/logger"]);
}

fn exec(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let exec = |options: &[&str], words: &[&str]| {
        let mut arguments = vec!["task", "exec", "--exec-id", "e"];
        arguments.extend(options);
        arguments.push(id);
        arguments.extend(words);
        daemon.ctr(&arguments)
    };
    let outcome =
        exec(&["--user", "1000:1000", "--cwd", "/tmp"], &["sh", "-c", "id -u; pwd; exit 5"]);
    assert_eq!(outcome.ends_with(5).text(), "1000\n/tmp");
    let data = noise(300_000);
    let echoed = exec(&[], &["cat"]).input(data.clone()).succeeds();
    assert!(echoed.stdout == data, "{} of {} bytes came back", echoed.stdout.len(), data.len());
}

fn exec_again(daemon: &Daemon, id: &str) {
    daemon.run(id, &["-d"], &["sleep", "1000"]).succeeds();
    let exec = |word: &str| daemon.ctr(&["task", "exec", "--exec-id", "e", id, word]);
    exec("/nope").fails_naming(&["/nope"]);
    exec("true").succeeds();
    exec("true").succeeds();
}
