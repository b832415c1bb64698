//! The real program, called the way the daemons call it. No virtual machine is needed: none is
//! started before a container is created.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails loudly")]

mod daemon;

use std::collections::HashSet;
use std::fs;
use std::process::Command;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

use daemon::{Daemon, Kind, Started, TASK_V2, TASK_V3, connect, feed, shutdown, state_code};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-vmrt-v2");

const IN_POD: &str = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;

fn assert_deleted(daemon: &Daemon, id: &str) {
    let output = daemon.delete(id);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(response.exit_status, 137);
    assert!(response.exited_at.seconds > 0);
}

fn assert_nothing_left(daemon: &Daemon, started: &Started) {
    assert!(!started.socket().exists(), "{}", started.address);
    assert!(!daemon.state_directory().exists(), "{}", daemon.state_directory().display());
}

#[tokio::test]
async fn every_daemon_gets_a_server_and_gets_rid_of_it() {
    for kind in Kind::ALL {
        let daemon = Daemon::new(kind);
        let started = daemon.start("a", None);
        let server = started.server().await;
        let client = started.client().await;
        for service in [TASK_V2, TASK_V3] {
            assert_eq!(connect(&client, service).await.task_pid, 0, "{kind:?}");
            assert_eq!(state_code(&client, service).await, ttrpc::Code::NOT_FOUND, "{kind:?}");
        }
        shutdown(&client).await;
        server.ended();
        assert_deleted(&daemon, "a");
        assert_deleted(&daemon, "a");
        assert_nothing_left(&daemon, &started);
        assert!(!started.bundle.join("rootfs").exists());
    }
}

#[tokio::test]
async fn the_containers_of_a_pod_share_one_server() {
    let daemon = Daemon::new(Kind::Containerd20);
    let pod = daemon.start("pod", None);
    let server = pod.server().await;
    let app = daemon.start("app", Some(IN_POD));
    assert_eq!(app.address, pod.address);
    let other = daemon.start("other", None);
    assert_ne!(other.address, pod.address);
    let _other = other.server().await;

    // Nothing was created: it leaves with the deletion of any of them.
    shutdown(&app.client().await).await;
    server.ended();
    assert_deleted(&daemon, "app");
    assert!(!pod.socket().exists());
}

#[tokio::test]
async fn members_that_start_at_once_find_one_server() {
    let daemon = Daemon::new(Kind::Containerd20);
    let ids: Vec<String> = (0..8).map(|number| format!("app{number}")).collect();
    let started: Vec<Started> = std::thread::scope(|scope| {
        let daemon = &daemon;
        let start = |id: &String| {
            let id = id.clone();
            scope.spawn(move || daemon.start(&id, Some(IN_POD)))
        };
        let threads: Vec<_> = ids.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut pids = HashSet::new();
    let mut servers = Vec::new();
    for one in &started {
        let server = one.server().await;
        pids.insert(server.0);
        servers.push(server);
    }
    assert_eq!(pids.len(), 1);
}

#[tokio::test]
async fn a_socket_without_a_server_is_replaced() {
    let daemon = Daemon::new(Kind::Containerd17);
    let first = daemon.start("a", None);
    let server = first.server().await;
    server.signal(Signal::SIGKILL);
    server.ended();
    assert!(first.socket().exists());
    let second = daemon.start("a", None);
    assert_eq!(second.address, first.address);
    let _server = second.server().await;
}

#[tokio::test]
async fn delete_removes_what_a_killed_server_has_left() {
    for kind in [Kind::Containerd16, Kind::Containerd23] {
        let daemon = Daemon::new(kind);
        let started = daemon.start("a", None);
        let server = started.server().await;
        server.signal(Signal::SIGKILL);
        server.ended();
        assert_deleted(&daemon, "a");
        assert_nothing_left(&daemon, &started);
    }
}

#[test]
fn delete_succeeds_where_nothing_was_started() {
    let daemon = Daemon::new(Kind::Containerd20);
    daemon.bundle("broken", Some("{"));
    assert_deleted(&daemon, "broken");
}

#[tokio::test]
async fn sigterm_ends_the_server() {
    let daemon = Daemon::new(Kind::Containerd20);
    let started = daemon.start("a", None);
    let server = started.server().await;
    server.signal(Signal::SIGTERM);
    server.ended();
    assert_nothing_left(&daemon, &started);
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figures are for people")]
async fn the_server_is_small_and_stands_on_its_own() {
    let daemon = Daemon::new(Kind::Containerd20);
    let started = daemon.start("a", None);
    let server = started.server().await;
    assert_eq!(getsid(Some(server.0)).unwrap(), server.0);
    assert_eq!(fs::read_link(server.proc("cwd")).unwrap(), started.bundle);
    for stream in 0..3 {
        let target = fs::read_link(server.proc(&format!("fd/{stream}"))).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"), "{stream}");
    }
    let score = |pid: Pid| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    assert_eq!(score(server.0), (score(Pid::this()) + 1).min(1000));

    let threads = fs::read_dir(server.proc("task")).unwrap().count();
    let memory = fs::read_to_string(server.proc("smaps_rollup")).unwrap();
    let pss: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_whitespace().next())
        .map(|number| number.parse().unwrap())
        .unwrap();
    println!("idle server: {threads} threads, {pss} KiB PSS");
    assert!(threads <= 3, "{threads} threads");
    // The bound of the release build; the debug build maps more code.
    assert!(cfg!(debug_assertions) || pss < 4096, "{pss} KiB");
}

#[test]
fn a_wrong_configuration_is_reported_in_one_line_and_nothing_is_left() {
    let daemon = Daemon::new(Kind::Containerd20);
    let bundle = daemon.bundle("a", None);
    let mut command = daemon.command("a", "start");
    command.env("VMRT_CONFIG", "/nonexistent/config.toml");
    let output = feed(command, &[]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("/nonexistent/config.toml") && error.lines().count() == 1, "{error}");
    assert!(!bundle.join("address").exists());
}

#[test]
fn a_bad_command_line_is_an_error() {
    for arguments in [&["stop"][..], &["-colour", "red", "start"], &["-id", "../x", "start"]] {
        let mut command = Command::new(SHIM);
        command.args(arguments);
        let output = feed(command, &[]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
}

#[test]
fn questions_are_answered_without_an_environment() {
    let ask = |argument: &str| {
        let mut command = Command::new(SHIM);
        command.arg(argument).env_clear().current_dir("/");
        let output = feed(command, b"\x0a\x07options");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        output.stdout
    };
    let info = RuntimeInfo::parse_from_bytes(&ask("-info")).unwrap();
    assert_eq!(info.name, "io.containerd.vmrt.v2");
    assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.features.value, ask("features"));
    for flag in ["-v", "--version"] {
        assert!(String::from_utf8(ask(flag)).unwrap().contains(env!("CARGO_PKG_VERSION")));
    }
}
