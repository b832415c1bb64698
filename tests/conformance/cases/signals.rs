//! Kill, in every state, and the rules of a pid namespace.

use std::time::Duration;

use runtime_api::{ErrorKind, KillScope, Signal, Status};

use crate::case::{Case, case};
use crate::context::Context;

pub(crate) const CASES: &[Case] = &[
    case!("SIGKILL ends a running container with 137", "Kill", running),
    case!("SIGKILL stops a created container with 137", "Kill: CREATED", created),
    case!("a waiter for a created container hears of its SIGKILL", "Wait: after Kill", waiting),
    case!("kill of a stopped container finds nothing", "Kill: exited", stopped),
    case!("kill of an unknown container finds nothing", "Kill: unknown", unknown),
    case!("kill of a deleted container finds nothing", "Kill: unknown", deleted),
    case!("signal 0 finds life in created and running", "Kill: signal 0", probe),
    case!("signal 0 finds none in a stopped container", "Kill: signal 0", probe_stopped),
    case!("SIGTERM to a sleep that is pid 1 has no effect", "Behaviour: pid 1", term_pid_one),
    case!("pid 1 cannot kill itself", "Behaviour: pid 1", kills_itself),
    case!("a trap for TERM exits with its code", "Behaviour: trap TERM", trap),
    case!("a handled signal does not end the process", "Behaviour: trap USR1", handled),
    case!("SIGTERM ends an exec with 143", "Kill: exec", exec_term),
    case!("kill of an exec that was not started is refused", "Kill: exec", exec_created),
    case!("kill of an exec that has ended finds nothing", "Kill: exec", exec_stopped),
    case!("kill of an unknown exec finds nothing", "Kill: exec", exec_unknown),
    case!("kill 9 all ends every process", "Kill: all", all),
    case!("kill 9 all after the exit finds nothing", "Kill: 9 all after exit", all_stopped),
    case!("a process that was left behind ends with its init", "pid namespace", orphan),
    case!("stop asks with TERM, then kills", "stop()", stop),
    case!("stop of what has ended succeeds", "stop()", stop_ended),
];

async fn running(context: &Context) {
    let container = context.sleeping().await;
    context.allowed("kill", container.kill(9).await);
    context.expect("code", container.wait().await.unwrap().code, 137);
    context.expect("status", container.status().await.unwrap(), Status::Stopped);
    context.expect("deleted", container.delete().await.unwrap().code, 137);
}

async fn created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    context.allowed("kill", container.kill(9).await);
    container.becomes(Status::Stopped).await;
    let exit = container.state().await.unwrap().exit;
    context.expect("code", exit.map(|exit| exit.code), Some(137));
    context.refused("start", container.start().await, ErrorKind::FailedPrecondition);
    context.expect("deleted", container.delete().await.unwrap().code, 137);
}

async fn waiting(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let (runtime, at) = (context.shared(), container.at.clone());
    let waiter = tokio::spawn(async move { runtime.wait(&at).await.map(|exit| exit.code) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    context.allowed("kill", container.kill(9).await);
    context.expect("code", waiter.await.unwrap().unwrap(), 137);
    container.delete().await.unwrap();
}

async fn stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.refused("KILL", container.kill(9).await, ErrorKind::NotFound);
    context.refused("TERM", container.kill(15).await, ErrorKind::NotFound);
    context.expect("code", container.delete().await.unwrap().code, 0);
}

async fn unknown(context: &Context) {
    let container = context.sleeping().await;
    let runtime = context.runtime();
    let killed = runtime.kill(&context.unknown(), Signal::KILL, KillScope::Process).await;
    context.refused("kill", killed, ErrorKind::NotFound);
    container.dispose().await;
}

async fn deleted(context: &Context) {
    let container = context.sleeping().await;
    container.dispose().await;
    context.refused("kill", container.kill(9).await, ErrorKind::NotFound);
}

async fn probe(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    context.allowed("created", container.kill(0).await);
    container.start().await.unwrap();
    context.allowed("running", container.kill(0).await);
    context.expect("status", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn probe_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.refused("stopped", container.kill(0).await, ErrorKind::NotFound);
    container.delete().await.unwrap();
}

async fn term_pid_one(context: &Context) {
    // Not before it is what it says: a runtime's own program may listen to TERM.
    let container = context.started(&["sh", "-c", "echo ready; exec sleep 1000"]).await;
    container.streams.out.until("ready\n").await;
    context.allowed("TERM", container.kill(15).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    context.expect("status", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn kills_itself(context: &Context) {
    let ran = context.shell("kill -9 $$; echo alive; exit 3").await;
    context.ran("init", ran, 3, "alive\n");
}

/// A shell that traps, and has said that it does.
const TRAPS: &str = "trap 'echo term; exit 12' TERM; trap 'echo usr1' USR1; echo ready; \
                     while true; do sleep 0.05; done";

async fn trap(context: &Context) {
    let mut container = context.started(&["sh", "-c", TRAPS]).await;
    container.streams.out.until("ready\n").await;
    context.allowed("TERM", container.kill(15).await);
    context.ran("init", container.end().await, 12, "ready\nterm\n");
}

async fn handled(context: &Context) {
    let mut container = context.started(&["sh", "-c", TRAPS]).await;
    container.streams.out.until("ready\n").await;
    context.allowed("USR1", container.kill(10).await);
    container.streams.out.until("usr1\n").await;
    context.allowed("TERM", container.kill(15).await);
    context.ran("init", container.end().await, 12, "ready\nusr1\nterm\n");
}

async fn exec_term(context: &Context) {
    let container = context.sleeping().await;
    let mut exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    context.allowed("TERM", exec.kill(15).await);
    context.ran("exec", exec.end().await, 143, "");
    context.expect("init", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn exec_created(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["true"]).await.unwrap();
    context.refused("TERM", exec.kill(15).await, ErrorKind::FailedPrecondition);
    container.dispose().await;
}

async fn exec_stopped(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["true"]).await.unwrap();
    exec.start().await.unwrap();
    exec.wait().await.unwrap();
    context.refused("kill", exec.kill(9).await, ErrorKind::NotFound);
    exec.delete().await.unwrap();
    container.dispose().await;
}

async fn exec_unknown(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["true"]).await.unwrap();
    exec.delete().await.unwrap();
    context.refused("kill", exec.kill(9).await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn all(context: &Context) {
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let mut container = context.started(&["sh", "-c", script]).await;
    container.streams.out.until("ready\n").await;
    let exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    context.allowed("kill", container.kill_all(9).await);
    context.expect("exec", exec.wait().await.unwrap().code, 137);
    exec.delete().await.unwrap();
    context.ran("init", container.end().await, 137, "ready\n");
}

async fn all_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.refused("kill", container.kill_all(9).await, ErrorKind::NotFound);
    container.delete().await.unwrap();
}

async fn orphan(context: &Context) {
    let mut container = context.started(&["sh", "-c", "sleep 1000 & exit 9"]).await;
    let ended = context.within("exit", Duration::from_secs(10), container.end()).await;
    context.ran("init", ended, 9, "");
}

async fn stop(context: &Context) {
    let deadline = || Box::pin(tokio::time::sleep(Duration::from_millis(400)));
    let stubborn = context.sleeping().await;
    let exit = context.runtime().stop(&stubborn.at, deadline()).await.unwrap();
    context.expect("one that does not listen", exit.code, 137);
    stubborn.delete().await.unwrap();
    let polite = context.started(&["sh", "-c", TRAPS]).await;
    polite.streams.out.until("ready\n").await;
    let patient = Box::pin(tokio::time::sleep(Duration::from_secs(20)));
    let exit = context.runtime().stop(&polite.at, patient).await.unwrap();
    context.expect("one that listens", exit.code, 12);
    polite.delete().await.unwrap();
}

async fn stop_ended(context: &Context) {
    let container = context.started(&["sh", "-c", "exit 8"]).await;
    container.wait().await.unwrap();
    let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(5)));
    let exit = context.runtime().stop(&container.at, deadline).await.unwrap();
    context.expect("code", exit.code, 8);
    container.delete().await.unwrap();
}
