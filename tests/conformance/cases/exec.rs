//! Additional processes.

use std::time::Duration;

use conformance::process;
use runtime_api::{
    ErrorKind, Exec, ExecId, Json, KillScope, ProcessRef, Signal, Status, Stdio, WindowSize,
};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("an exec has its own exit code and streams", "Behaviour: exec rc", runs),
    case!("an exec has the user, directory and environment it asks for", "Exec", identity),
    case!("an exec has no more capabilities than it asks for", "Exec: caps", capabilities),
    case!("an exec reads its input to the end", "Behaviour: exec stdin", input),
    case!("an exec with a terminal has one", "Exec: tty", terminal),
    case!("an exec sees the processes and files of its container", "Exec", joins),
    case!("an exec id that is taken is refused", "Exec: AlreadyExists", duplicate),
    case!("an exec id can be used again when it was deleted", "Exec: reusable", reused),
    case!("a missing executable frees the id of its exec", "Behaviour: /nope as exec", nope),
    case!("an exec of a created container runs", "Exec: created", on_created),
    case!("an exec of a stopped container is refused", "Start: exec after exit", on_stopped),
    case!("an exec of an unknown container is not found", "Exec", on_unknown),
    case!("an exec whose container has stopped does not start", "Start: exec", start_late),
    case!("a started exec does not start again", "Start: exec", start_twice),
    case!("delete of a running exec is refused", "Delete: exec", delete_running),
    case!("a second delete of an exec finds nothing", "Delete: exec", delete_twice),
    case!("an exec that never ran can be deleted", "Delete: exec", delete_created),
    case!("state tells of an exec from creation to exit", "State: exec", states),
    case!("no operation finds an unknown exec", "Unknown ids", unknown),
    case!("a process without words is refused", "Exec: broken process", no_words),
    case!("a process that is no JSON is refused", "Exec: broken process", no_json),
    case!("exec_sync runs a process to its end and deletes it", "exec_sync()", sync),
    case!("exec_sync kills at its deadline", "exec_sync()", sync_deadline),
    case!("ten execs at once have each their own output", "Exec", ten),
    case!("an exec ends although a child of it lives on", "Wait: exec", background),
];

async fn runs(context: &Context) {
    let container = context.sleeping().await;
    let mut exec =
        container.exec("e", &["sh", "-c", "echo out; echo err >&2; exit 5"]).await.unwrap();
    let ran = exec.run().await;
    context.expect("exec", (ran.code, ran.out, ran.err), (5, "out\n".into(), "err\n".into()));
    container.dispose().await;
}

/// Runs an exec of this `process` object to its end.
async fn ran(context: &Context, process: Value, code: u32, out: &str) {
    let container = context.sleeping().await;
    let mut exec = container.exec_with("e", process, Wanted::default()).await.unwrap();
    context.ran("exec", exec.run().await, code, out);
    container.dispose().await;
}

async fn identity(context: &Context) {
    let mut process = process(&["sh", "-c", "id -u; id -g; id -G; pwd; echo $COLOUR"]);
    process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8]});
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "COLOUR=red and blue"]);
    ran(context, process, 0, "1000\n1001\n1001 7 8\n/tmp\nred and blue\n").await;
}

async fn capabilities(context: &Context) {
    let mut process = process(&["grep", "-E", "^Cap(Prm|Eff|Bnd)", "/proc/self/status"]);
    // CAP_CHOWN is 0 and CAP_KILL is 5 (capabilities(7)).
    let sets =
        ["bounding", "effective", "permitted"].map(|set| (set, json!(["CAP_CHOWN", "CAP_KILL"])));
    process["capabilities"] = json!(std::collections::BTreeMap::from(sets));
    let sets = ["CapPrm", "CapEff", "CapBnd"].map(|set| format!("{set}:\t0000000000000021\n"));
    ran(context, process, 0, &sets.concat()).await;
}

async fn input(context: &Context) {
    let container = context.sleeping().await;
    let wanted = Wanted { input: true, ..Wanted::default() };
    let mut exec = container.exec_with("e", process(&["cat"]), wanted).await.unwrap();
    exec.start().await.unwrap();
    exec.streams.input.as_mut().unwrap().write(b"one\ntwo\n").await;
    context.allowed("close", exec.end_input().await);
    context.ran("exec", exec.end().await, 0, "one\ntwo\n");
    container.dispose().await;
}

async fn terminal(context: &Context) {
    let container = context.sleeping().await;
    let mut process = process(&["sh", "-c", "tty; test -t 2 && echo err"]);
    process["terminal"] = json!(true);
    let wanted = Wanted { terminal: true, ..Wanted::default() };
    let mut exec = container.exec_with("e", process, wanted).await.unwrap();
    context.ran("exec", exec.run().await, 0, "/dev/pts/0\r\nerr\r\n");
    container.dispose().await;
}

async fn joins(context: &Context) {
    let container = context.started(&["sh", "-c", "echo mark >/tmp/file; sleep 1000; true"]).await;
    let script = "cat /tmp/file; tr '\\0' ' ' </proc/1/cmdline; echo; hostname";
    let mut exec = container.exec("e", &["sh", "-c", script]).await.unwrap();
    let wanted = "mark\nsh -c echo mark >/tmp/file; sleep 1000; true \nbox\n";
    tokio::time::sleep(Duration::from_millis(200)).await;
    context.ran("exec", exec.run().await, 0, wanted);
    container.dispose().await;
}

async fn duplicate(context: &Context) {
    let container = context.sleeping().await;
    let mut first = container.exec("e", &["sh", "-c", "exit 3"]).await.unwrap();
    let again = container.exec("e", &["true"]).await.map(drop);
    context.refused("a created one", again, ErrorKind::AlreadyExists);
    first.start().await.unwrap();
    first.wait().await.unwrap();
    let again = container.exec("e", &["true"]).await.map(drop);
    context.refused("a stopped one", again, ErrorKind::AlreadyExists);
    context.ran("the first", first.end().await, 3, "");
    container.dispose().await;
}

async fn reused(context: &Context) {
    let container = context.sleeping().await;
    for number in 1..4 {
        let script = format!("echo {number}; exit {number}");
        let mut exec = container.exec("e", &["sh", "-c", &script]).await.unwrap();
        context.ran(&format!("run {number}"), exec.run().await, number, &format!("{number}\n"));
    }
    container.dispose().await;
}

async fn nope(context: &Context) {
    let container = context.sleeping().await;
    let failed = match container.exec("e", &["/nope"]).await {
        Ok(exec) => {
            let started = exec.start().await;
            exec.delete().await.unwrap();
            started
        }
        Err(error) => Err(error),
    };
    context.refused("the failure", failed, ErrorKind::NotFound);
    let mut exec = container.exec("e", &["echo", "fine"]).await.unwrap();
    context.ran("the same id", exec.run().await, 0, "fine\n");
    container.dispose().await;
}

async fn on_created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let mut exec = container.exec("e", &["echo", "early"]).await.unwrap();
    context.ran("exec", exec.run().await, 0, "early\n");
    context.expect("init", container.status().await.unwrap(), Status::Created);
    context.allowed("start", container.start().await);
    container.dispose().await;
}

async fn on_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    let exec = container.exec("e", &["true"]).await.map(drop);
    context.refused("exec", exec, ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

async fn on_unknown(context: &Context) {
    let container = context.sleeping().await;
    let request = Exec {
        container: context.unknown().container,
        id: ExecId::parse("e").unwrap(),
        process: Json(process(&["true"]).to_string().into_bytes()),
        stdio: Stdio::default(),
    };
    context.refused("exec", context.runtime().exec(request).await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn start_late(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["true"]).await.unwrap();
    container.kill(9).await.unwrap();
    container.wait().await.unwrap();
    context.refused("start", exec.start().await, ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

async fn start_twice(context: &Context) {
    let container = context.sleeping().await;
    let mut exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    context.refused("running", exec.start().await, ErrorKind::FailedPrecondition);
    exec.kill(9).await.unwrap();
    exec.wait().await.unwrap();
    context.refused("stopped", exec.start().await, ErrorKind::FailedPrecondition);
    context.ran("exec", exec.end().await, 137, "");
    container.dispose().await;
}

async fn delete_running(context: &Context) {
    let container = context.sleeping().await;
    let mut exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    context.refused("delete", exec.delete().await, ErrorKind::FailedPrecondition);
    exec.kill(9).await.unwrap();
    context.ran("exec", exec.end().await, 137, "");
    container.dispose().await;
}

async fn delete_twice(context: &Context) {
    let container = context.sleeping().await;
    let mut exec = container.exec("e", &["true"]).await.unwrap();
    exec.run().await;
    context.refused("delete", exec.delete().await, ErrorKind::NotFound);
    context.refused("state", exec.state().await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn delete_created(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["true"]).await.unwrap();
    context.allowed("delete", exec.delete().await);
    context.refused("state", exec.state().await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn states(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["sh", "-c", "sleep 0.5; exit 6"]).await.unwrap();
    context.expect("created", exec.status().await.unwrap(), Status::Created);
    exec.start().await.unwrap();
    let running = exec.state().await.unwrap();
    context.expect("running", running.status, Status::Running);
    context.expect("a pid", running.pid.0 > 0, true);
    context.expect("its streams", running.stdio == exec.stdio, true);
    exec.wait().await.unwrap();
    let stopped = exec.state().await.unwrap();
    context.expect("stopped", stopped.status, Status::Stopped);
    context.expect("code", stopped.exit.map(|exit| exit.code), Some(6));
    exec.delete().await.unwrap();
    container.dispose().await;
}

async fn unknown(context: &Context) {
    let container = context.sleeping().await;
    let at = ProcessRef::exec(container.container().clone(), ExecId::parse("nobody").unwrap());
    let runtime = context.runtime();
    context.refused("start", runtime.start(&at).await, ErrorKind::NotFound);
    context.refused("state", runtime.state(&at).await, ErrorKind::NotFound);
    context.refused("wait", runtime.wait(&at).await, ErrorKind::NotFound);
    let killed = runtime.kill(&at, Signal::KILL, KillScope::Process).await;
    context.refused("kill", killed, ErrorKind::NotFound);
    context.refused("close_io", runtime.close_io(&at).await, ErrorKind::NotFound);
    let size = WindowSize { width: 80, height: 24 };
    context.refused("resize_pty", runtime.resize_pty(&at, size).await, ErrorKind::NotFound);
    context.refused("delete", runtime.delete(&at).await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn no_words(context: &Context) {
    let container = context.sleeping().await;
    let refused = match container.exec("e", &[]).await {
        Ok(exec) => exec.delete().await.map(drop),
        Err(error) => Err(error),
    };
    context.refused("exec", refused, ErrorKind::InvalidArgument);
    let mut exec = container.exec("e", &["true"]).await.unwrap();
    context.ran("the same id", exec.run().await, 0, "");
    container.dispose().await;
}

async fn no_json(context: &Context) {
    let container = context.sleeping().await;
    let request = Exec {
        container: container.container().clone(),
        id: ExecId::parse("e").unwrap(),
        process: Json(b"{\"args\": [".to_vec()),
        stdio: Stdio::default(),
    };
    context.refused("exec", context.runtime().exec(request).await, ErrorKind::InvalidArgument);
    container.dispose().await;
}

async fn sync(context: &Context) {
    let container = context.sleeping().await;
    let request = |script: &str| Exec {
        container: container.container().clone(),
        id: ExecId::parse("e").unwrap(),
        process: Json(process(&["sh", "-c", script]).to_string().into_bytes()),
        stdio: Stdio::default(),
    };
    let patient = || Box::pin(tokio::time::sleep(Duration::from_secs(30)));
    for code in [0, 3] {
        let exit = context.runtime().exec_sync(request(&format!("exit {code}")), patient()).await;
        context.expect(&format!("code {code}"), exit.unwrap().code, code);
    }
    container.dispose().await;
}

async fn sync_deadline(context: &Context) {
    let container = context.sleeping().await;
    let request = Exec {
        container: container.container().clone(),
        id: ExecId::parse("e").unwrap(),
        process: Json(process(&["sleep", "1000"]).to_string().into_bytes()),
        stdio: Stdio::default(),
    };
    let at = ProcessRef::exec(request.container.clone(), request.id.clone());
    let deadline = Box::pin(tokio::time::sleep(Duration::from_millis(500)));
    let exit = context.runtime().exec_sync(request, deadline);
    let exit = context.within("end", Duration::from_secs(5), exit).await;
    context.refused("exec_sync", exit, ErrorKind::DeadlineExceeded);
    context.refused("state", context.runtime().state(&at).await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn ten(context: &Context) {
    let container = context.sleeping().await;
    let mut execs = Vec::new();
    for number in 0..10 {
        let script = format!("echo {number}; sleep 0.2; echo {number}; exit {number}");
        let id = format!("e{number}");
        execs.push(container.exec(&id, &["sh", "-c", &script]).await.unwrap());
    }
    for exec in &execs {
        exec.start().await.unwrap();
    }
    for (number, exec) in execs.iter_mut().enumerate() {
        let out = format!("{number}\n{number}\n");
        let code = u32::try_from(number).unwrap();
        context.ran(&format!("exec {number}"), exec.end().await, code, &out);
    }
    container.dispose().await;
}

async fn background(context: &Context) {
    let container = context.sleeping().await;
    let script = "sleep 1000 & echo started; exit 4";
    let exec = container.exec("e", &["sh", "-c", script]).await.unwrap();
    exec.start().await.unwrap();
    let exit = context.within("exit", Duration::from_secs(5), exec.wait()).await.unwrap();
    context.expect("code", exit.code, 4);
    exec.streams.out.until("started\n").await;
    let deleted = context.within("delete", Duration::from_secs(15), exec.delete()).await;
    context.expect("deleted", deleted.unwrap().code, 4);
    container.dispose().await;
}
