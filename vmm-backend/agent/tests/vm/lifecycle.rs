//! States, signals, refusals, and that nothing is left.

use std::time::{Duration, Instant};

use runtime_api::{ErrorKind, Json, KillScope, Result, Runtime, Signal, Status, Update};
use serde_json::json;

use crate::bundle::{Bundle, process};
use crate::guest::{Guest, channels, exec, id, init};
use crate::in_a_guest;

#[test]
fn containers_come_and_go_as_the_contract_says() {
    in_a_guest(async |guest| {
        signals(guest).await;
        refused_creations(guest).await;
        execs(guest).await;
        pause_and_limits(guest).await;
        nothing_is_left(guest).await;
    });
}

#[test]
fn ten_containers_run_in_parallel() {
    in_a_guest(async |guest| {
        let guest: &Guest = guest;
        let runs = (0..10).map(|number| async move {
            let name = format!("c{number}");
            let outcome = guest.run(&name, &["sh", "-c", &format!("echo {number}")]).await;
            assert_eq!((outcome.code, outcome.text()), (0, number.to_string()));
        });
        let mut pending: Vec<_> = runs.map(Box::pin).collect();
        std::future::poll_fn(|context| {
            pending.retain_mut(|run| run.as_mut().poll(context).is_pending());
            if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        nothing_is_left(guest).await;
    });
}

#[test]
fn the_cost_of_each_step_is_printed() {
    in_a_guest(async |guest| {
        for number in 0..8 {
            let name = format!("idle{number}");
            guest.create(&name, &["sleep", "1000"]).await.unwrap();
            guest.tasks_start(&name).await;
        }
        let mut rows = Vec::new();
        for round in 0..8 {
            let name = format!("c{round}");
            let process = init(&name);
            let spec = process_spec();
            let mut row = Vec::new();
            let mut at = Instant::now();
            let mut lap = |at: &mut Instant| {
                row.push(at.elapsed());
                *at = Instant::now();
            };
            guest.create(&name, &["sleep", "1000"]).await.unwrap();
            lap(&mut at);
            guest.tasks.start(&process).await.unwrap();
            lap(&mut at);
            let additional = exec(&name, "e");
            guest.add_exec(&additional, spec, false).await.unwrap();
            guest.tasks.start(&additional).await.unwrap();
            lap(&mut at);
            guest.collect(&additional).await.unwrap();
            lap(&mut at);
            guest.tasks.kill(&process, Signal::KILL, KillScope::All).await.unwrap();
            guest.tasks.wait(&process).await.unwrap();
            lap(&mut at);
            guest.tasks.delete(&process).await.unwrap();
            lap(&mut at);
            guest.tasks.state(&process).await.unwrap_err();
            lap(&mut at);
            rows.push(row);
        }
        let steps =
            ["create", "start", "exec + start", "end of exec", "kill+wait", "delete", "state"];
        for (step, name) in steps.iter().enumerate() {
            let mut times: Vec<Duration> = rows.iter().map(|row| row[step]).collect();
            times.sort();
            println!("{name}: median {:?}, best {:?}", times[times.len() / 2], times[0]);
        }
        let script = "grep -E '^(VmRSS|RssAnon|Threads):' /proc/1/status";
        println!("the agent with 8 containers: {}", look_from_outside(guest, script).await);
    });
}

fn process_spec() -> serde_json::Value {
    process(&["true"])
}

async fn signals(guest: &Guest) {
    let script = "trap 'exit 12' USR1; echo ready; while :; do sleep 0.1; done";
    guest.create("trap", &["sh", "-c", script]).await.unwrap();
    let trap = init("trap");
    guest.tasks.start(&trap).await.unwrap();
    guest.read(&trap, guest_api::Stream::STREAM_STDOUT, 0).await.unwrap();
    let usr1 = Signal::parse(10).unwrap();
    guest.tasks.kill(&trap, usr1, KillScope::Process).await.unwrap();
    assert_eq!(guest.tasks.wait(&trap).await.unwrap().code, 12);
    let stopped = guest.tasks.kill(&trap, Signal::KILL, KillScope::All).await.unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::NotFound);
    guest.tasks.delete(&trap).await.unwrap();
    assert_eq!(guest.tasks.delete(&trap).await.unwrap_err().kind(), ErrorKind::NotFound);

    guest.create("never", &["true"]).await.unwrap();
    let never = init("never");
    guest.tasks.kill(&never, Signal::KILL, KillScope::Process).await.unwrap();
    assert_eq!(guest.tasks.wait(&never).await.unwrap().code, 137);
    assert_eq!(guest.tasks.state(&never).await.unwrap().status, Status::Stopped);
    guest.tasks.delete(&never).await.unwrap();

    // A created container may be deleted at once.
    guest.create("unused", &["true"]).await.unwrap();
    guest.tasks.delete(&init("unused")).await.unwrap();
}

async fn refused_creations(guest: &Guest) {
    let expect = async |bundle: Bundle, kind: ErrorKind, line: &str| {
        let error = guest.create_with("bad", &bundle, channels(false)).await.unwrap_err();
        assert!(error.chain().contains(line), "{}", error.chain());
        assert_eq!(error.kind(), kind, "{}", error.chain());
    };
    let missing = Bundle::running("bad", &["/nope"]);
    expect(missing, ErrorKind::NotFound, "exec: \"/nope\": no such file or directory").await;
    let unknown = Bundle::running("bad", &["nope"]);
    expect(unknown, ErrorKind::NotFound, "exec: \"nope\": executable file not found in $PATH")
        .await;
    let mut cwd = Bundle::running("bad", &["true"]);
    cwd.spec["process"]["cwd"] = json!("/bin/sh");
    expect(cwd, ErrorKind::InvalidArgument, "chdir to cwd \"/bin/sh\"").await;
    let mut mount = Bundle::running("bad", &["true"]);
    let bind = json!({"type": "bind", "destination": "/m", "source": "/x", "options": ["bind"]});
    mount.spec["mounts"].as_array_mut().unwrap().push(bind);
    expect(mount, ErrorKind::NotFound, "mount /m: source /x: no such file or directory").await;
    let mut kind = Bundle::running("bad", &["true"]);
    let odd = json!({"type": "oddfs", "destination": "/m", "source": "x", "options": []});
    kind.spec["mounts"].as_array_mut().unwrap().push(odd);
    expect(kind, ErrorKind::Internal, "create container bad: ").await;
}

async fn execs(guest: &Guest) {
    guest.create("host", &["sleep", "1000"]).await.unwrap();
    guest.tasks_start("host").await;
    let name = exec("host", "e");
    let code = process(&["sh", "-c", "cat /proc/1/comm; exit 7"]);
    let outcome = guest.run_exec(&name, code).await.unwrap();
    assert_eq!((outcome.code, outcome.text().as_str()), (7, "sleep"));

    let missing = guest.run_exec(&name, process(&["/nope"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.chain().contains("exec: \"/nope\": no such file or directory"));
    guest.add_exec(&name, process(&["sleep", "1000"]), false).await.unwrap();
    let taken = guest.add_exec(&name, process(&["true"]), false).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let early = guest.tasks.kill(&name, Signal::TERM, KillScope::Process).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::FailedPrecondition);
    guest.tasks.start(&name).await.unwrap();
    let pids = guest.tasks.pids(&id("host")).await.unwrap();
    assert_eq!(pids.len(), 2, "{pids:?}");

    // The exec ends with its container, and no later.
    let host = init("host");
    let (first, second) = (guest.tasks.wait(&name), guest.tasks.wait(&host));
    guest.tasks.kill(&init("host"), Signal::KILL, KillScope::Process).await.unwrap();
    let (exec_exit, init_exit) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((exec_exit.code, init_exit.code), (137, 137));
    assert!(exec_exit.at <= init_exit.at);
    let late = guest.add_exec(&exec("host", "late"), process(&["true"]), false).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::FailedPrecondition);
    assert!(guest.tasks.pids(&id("host")).await.unwrap().is_empty());
    guest.tasks.delete(&init("host")).await.unwrap();
}

async fn pause_and_limits(guest: &Guest) {
    guest.create("box", &["sh", "-c", "while :; do :; done"]).await.unwrap();
    let container = id("box");
    let update =
        |text: String| Update { container: container.clone(), resources: Json(text.into()) };
    let precondition = |result: Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    };
    let pids = |limit: u64| update(json!({"pids": {"limit": limit}}).to_string());
    // Created, running and paused containers take other limits, stopped ones none.
    guest.tasks.update(pids(60)).await.unwrap();
    precondition(guest.tasks.pause(&container).await);
    guest.tasks_start("box").await;
    assert_eq!(guest.tasks.stats(&container).await.unwrap().pids.limit, Some(60));
    guest.tasks.update(pids(100)).await.unwrap();
    precondition(guest.tasks.resume(&container).await);
    guest.tasks.pause(&container).await.unwrap();
    assert_eq!(guest.tasks.state(&init("box")).await.unwrap().status, Status::Paused);
    precondition(guest.tasks.pause(&container).await);
    guest.tasks.update(pids(100)).await.unwrap();
    let frozen = guest.add_exec(&exec("box", "e"), process(&["true"]), false).await.unwrap_err();
    assert_eq!(frozen.kind(), ErrorKind::FailedPrecondition);
    guest.tasks.resume(&container).await.unwrap();
    precondition(guest.tasks.resume(&container).await);

    let stats = guest.tasks.stats(&container).await.unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(134_217_728), Some(100)));
    assert!(stats.cpu.usage > 0 && stats.memory.usage > 0 && stats.pids.current == 1);
    let resources = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 50}});
    guest.tasks.update(update(resources.to_string())).await.unwrap();
    let stats = guest.tasks.stats(&container).await.unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(67_108_864), Some(50)));
    let broken = guest.tasks.update(update("[".into())).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::InvalidArgument);
    let impossible = json!({"blockIO": {"weight": 10}}).to_string();
    let impossible = guest.tasks.update(update(impossible)).await.unwrap_err();
    assert_eq!(impossible.kind(), ErrorKind::InvalidArgument);
    assert!(impossible.to_string().contains("linux.resources.blockIO"), "{impossible}");

    // What is frozen can be killed.
    guest.tasks.pause(&container).await.unwrap();
    guest.tasks.kill(&init("box"), Signal::KILL, KillScope::Process).await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(5), guest.tasks.wait(&init("box"))).await;
    assert_eq!(exit.unwrap().unwrap().code, 137);
    precondition(guest.tasks.update(pids(100)).await);
    guest.dispose("box").await;
}

/// Asserts that what a case has deleted has left no trace.
async fn nothing_is_left(guest: &Guest) {
    // In the end: processes of other containers, helpers at work and zombies; and of cradles, which
    // wait in cgroups of their own, those that are empty or hold something else. A cradle that did
    // not suit this very container needs a moment to go.
    let script = "sleep 1; echo look; ls -d /guest/cgroup/default/*/ 2>/dev/null
        grep -h '^0::' /proc/[0-9]*/cgroup 2>/dev/null |
            grep -v -e '^0::/$' -e '^0::/look$' -e '^0::/vmrt/[.]'
        for cradle in /guest/cgroup/vmrt/.[0-9]*; do
            read pid <$cradle/cgroup.procs && grep -q '^Name:.vmrt-spare' /proc/$pid/status ||
                echo $cradle
        done
        grep -h -e '^Name:.vmrt-helper' -e '^State:.Z' /proc/[0-9]*/status 2>/dev/null";
    assert_eq!(look_from_outside(guest, script).await, "look");
}

/// Runs a script in a container that shares the namespaces of the guest and sees its files.
async fn look_from_outside(guest: &Guest, script: &str) -> String {
    let mut bundle = Bundle::running("look", &["sh", "-c", script]);
    bundle.spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
    bundle.spec["linux"]["cgroupsPath"] = json!("/look");
    bundle.spec.as_object_mut().unwrap().remove("hostname");
    let bind = |source: &str, destination: &str| json!({"type": "bind", "source": source, "destination": destination, "options": ["rbind"]});
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    mounts.push(bind("/sys/fs/cgroup", "/guest/cgroup"));
    mounts.push(bind("/run", "/guest/run"));
    guest.run_bundle("look", &bundle).await.text()
}
