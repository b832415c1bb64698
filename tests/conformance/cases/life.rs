//! Create, start, wait, state, delete.

use std::path::Path;
use std::time::{Duration, SystemTime};

use runtime_api::{ErrorKind, ProcessRef, Status};

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("a container runs: exit code, both streams, events", "Behaviour: run", whole_life),
    case!("exit codes from 0 to 255 arrive", "Wait", exit_codes),
    case!("the pid is one number from create to the end", "Create: pid in the reply", pid),
    case!("state tells of a created container", "State", state_created),
    case!("state tells of a running container", "State", state_running),
    case!("state tells of a stopped container", "State: exit fields", state_stopped),
    case!("state of an unknown container is not found", "State", state_unknown),
    case!("an id that is taken is refused, and its owner lives on", "Create", duplicate),
    case!("an id can be used again when it was deleted", "Behaviour: task rm", reused),
    case!("start of a running container is refused", "Start", start_running),
    case!("start of a stopped container is refused", "Start", start_stopped),
    case!("start of an unknown container is not found", "Start", start_unknown),
    case!("wait returns before, during and after the exit", "Wait", waits),
    case!("a hundred waiters hear of one exit", "Wait: any number", hundred_waiters),
    case!("wait for an unknown container is not found", "Wait", wait_unknown),
    case!("delete of a running container is refused", "Delete", delete_running),
    case!("a second delete finds nothing", "Delete", delete_twice),
    case!("a created container can be deleted", "Delete", delete_created),
    case!("delete of an unknown container is not found", "Delete", delete_unknown),
    case!("a delete while create runs leaves nothing", "Create", delete_while_creating),
    case!("checkpoints are not implemented", "Checkpoint", checkpoint),
    case!("wait for a created container ends with its deletion", "Wait", wait_until_deleted),
];

async fn whole_life(context: &Context) {
    let mut container = context.create(&["sh", "-c", "echo out; echo err >&2; exit 42"]).await;
    context.expect("created", container.status().await.unwrap(), Status::Created);
    let ran = container.run().await;
    context.expect("ran", (ran.code, ran.out, ran.err), (42, "out\n".into(), "err\n".into()));
    let events = context.events_until(container.container(), "delete 42").await;
    let wanted = ["create", "start", "exit 42", "delete 42"].map(String::from).to_vec();
    context.expect("events", events, wanted);
}

async fn exit_codes(context: &Context) {
    let mut codes = Vec::new();
    let container = context.sleeping().await;
    for code in [0, 1, 2, 126, 127, 128, 137, 255] {
        let script = format!("exit {code}");
        let mut exec = container.exec("e", &["sh", "-c", &script]).await.unwrap();
        codes.push(exec.run().await.code);
    }
    context.expect("codes", codes, vec![0, 1, 2, 126, 127, 128, 137, 255]);
    container.dispose().await;
}

async fn pid(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let created = container.created.clone().unwrap().pid;
    let started = context.runtime().start(&container.at).await.unwrap();
    let stated = container.state().await.unwrap().pid;
    context.expect("one number", started == created && stated == created, true);
    let lives = Path::new(&format!("/proc/{}/stat", created.0)).exists();
    context.expect("it lives on the host", lives, true);
    container.dispose().await;
}

async fn state_created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let state = container.state().await.unwrap();
    context.expect("status", state.status, Status::Created);
    context.expect("no exit", state.exit, None);
    context.expect("a pid", state.pid.0 > 0, true);
    let request = container.request.as_ref().unwrap();
    context.expect("its bundle", state.bundle == request.bundle, true);
    context.expect("its streams", state.stdio == container.stdio, true);
}

async fn state_running(context: &Context) {
    let container = context.sleeping().await;
    let state = container.state().await.unwrap();
    context.expect("status", state.status, Status::Running);
    context.expect("no exit", state.exit, None);
    context.expect("its streams", state.stdio == container.stdio, true);
    container.dispose().await;
}

async fn state_stopped(context: &Context) {
    let before = SystemTime::now();
    let container = context.started(&["sh", "-c", "exit 7"]).await;
    let waited = container.wait().await.unwrap();
    let state = container.state().await.unwrap();
    context.expect("status", state.status, Status::Stopped);
    let exit = state.exit.unwrap();
    context.expect("code", exit.code, 7);
    context.expect("the exit that wait tells of", exit == waited, true);
    // The clock of a guest is set when it is made, and runs beside that of the host.
    let tolerance = Duration::from_secs(2);
    let plausible = exit.at + tolerance > before && exit.at < SystemTime::now() + tolerance;
    context.expect("a plausible time", plausible, true);
    context.expect("its streams", state.stdio == container.stdio, true);
    let deleted = container.delete().await.unwrap();
    context.expect("the exit that delete tells of", deleted == waited, true);
}

async fn state_unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.runtime().state(&context.unknown()).await;
    context.refused("state", unknown, ErrorKind::NotFound);
    container.dispose().await;
    context.refused("state of a deleted one", container.state().await, ErrorKind::NotFound);
}

async fn duplicate(context: &Context) {
    let container = context.sleeping().await;
    let mut request = container.request.clone().unwrap();
    let (streams, stdio) = context.streams(Wanted::default());
    request.stdio = stdio;
    let again = context.runtime().create_container(request).await;
    context.refused("create", again, ErrorKind::AlreadyExists);
    drop(streams);
    context.expect("the first", container.status().await.unwrap(), Status::Running);
    let mut exec = container.exec("e", &["echo", "lives"]).await.unwrap();
    context.ran("exec", exec.run().await, 0, "lives\n");
    container.dispose().await;
}

async fn reused(context: &Context) {
    let mut first = context.create(&["sh", "-c", "exit 1"]).await;
    context.expect("first", first.run().await.code, 1);
    let bundle = conformance::Bundle::running(&["sh", "-c", "exit 2"]);
    let (mut request, streams) = context.request(&bundle, Wanted::default());
    request.id = first.container().clone();
    let mut second = context.create_as(request, streams).await.unwrap();
    context.expect("second", second.run().await.code, 2);
}

async fn start_running(context: &Context) {
    let container = context.sleeping().await;
    context.refused("start", container.start().await, ErrorKind::FailedPrecondition);
    context.expect("status", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn start_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.refused("start", container.start().await, ErrorKind::FailedPrecondition);
    context.expect("code", container.delete().await.unwrap().code, 0);
}

async fn start_unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.runtime().start(&context.unknown()).await;
    context.refused("start", unknown, ErrorKind::NotFound);
    container.dispose().await;
}

async fn waits(context: &Context) {
    let container = context.create(&["sh", "-c", "sleep 1; exit 3"]).await;
    let wait = |at: &ProcessRef| {
        let (runtime, at) = (context.shared(), at.clone());
        tokio::spawn(async move { runtime.wait(&at).await.unwrap().code })
    };
    let before = wait(&container.at);
    tokio::time::sleep(Duration::from_millis(100)).await;
    container.start().await.unwrap();
    let during = wait(&container.at);
    context.expect("before", before.await.unwrap(), 3);
    context.expect("during", during.await.unwrap(), 3);
    context.expect("after", container.wait().await.unwrap().code, 3);
    context.expect("deleted", container.delete().await.unwrap().code, 3);
}

async fn hundred_waiters(context: &Context) {
    let container = context.sleeping().await;
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let (runtime, at) = (context.shared(), container.at.clone());
            tokio::spawn(async move { runtime.wait(&at).await.map(|exit| exit.code) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    context.allowed("kill", container.kill(9).await);
    let mut codes = Vec::new();
    for waiter in waiters {
        codes.push(waiter.await.unwrap().unwrap());
    }
    context.expect("codes", codes, vec![137; 100]);
    container.delete().await.unwrap();
}

async fn wait_unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.runtime().wait(&context.unknown()).await;
    context.refused("wait", unknown, ErrorKind::NotFound);
    container.dispose().await;
}

async fn delete_running(context: &Context) {
    let container = context.sleeping().await;
    context.refused("delete", container.delete().await, ErrorKind::FailedPrecondition);
    context.expect("status", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn delete_twice(context: &Context) {
    let container = context.sleeping().await;
    container.dispose().await;
    context.refused("again", container.delete().await, ErrorKind::NotFound);
}

async fn delete_created(context: &Context) {
    let container = context.create(&["true"]).await;
    context.allowed("delete", container.delete().await);
    context.refused("state", container.state().await, ErrorKind::NotFound);
}

async fn delete_unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.runtime().delete(&context.unknown()).await;
    context.refused("delete", unknown, ErrorKind::NotFound);
    container.dispose().await;
}

async fn delete_while_creating(context: &Context) {
    for delay in [5, 20, 50, 100, 200] {
        deleted_after(context, Duration::from_millis(delay)).await;
    }
}

async fn deleted_after(context: &Context, delay: Duration) {
    let bundle = conformance::Bundle::running(&["sleep", "1000"]);
    let (request, _streams) = context.request(&bundle, Wanted::default());
    let at = ProcessRef::init(request.id.clone());
    let runtime = context.shared();
    let creating = tokio::spawn(async move { runtime.create_container(request).await });
    tokio::time::sleep(delay).await;
    let mut deleted = context.runtime().delete(&at).await;
    let created = creating.await.unwrap();
    if created.is_ok() && deleted.is_err() {
        // It came too early to find anything.
        deleted = context.runtime().delete(&at).await;
    }
    let clean = match (&created, &deleted) {
        (_, Ok(_)) => true,
        (Err(error), Err(_)) => error.kind() == ErrorKind::Cancelled,
        (Ok(_), Err(_)) => false,
    };
    assert!(clean, "after {delay:?}: {created:?} {deleted:?}");
    let state = context.runtime().state(&at).await;
    context.refused(&format!("state after {delay:?}"), state, ErrorKind::NotFound);
}

async fn checkpoint(context: &Context) {
    let container = context.sleeping().await;
    let directory = context.root.join("checkpoint");
    let checkpoint = context.runtime().checkpoint(container.container(), &directory).await;
    context.refused("checkpoint", checkpoint, ErrorKind::Unimplemented);
    context.expect("status", container.status().await.unwrap(), Status::Running);
    container.dispose().await;
}

async fn wait_until_deleted(context: &Context) {
    let container = context.create(&["true"]).await;
    let (runtime, at) = (context.shared(), container.at.clone());
    let waiter = tokio::spawn(async move { runtime.wait(&at).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    context.allowed("delete", container.delete().await);
    let ended = tokio::time::timeout(Duration::from_secs(10), waiter).await;
    context.expect("the wait ends", ended.is_ok(), true);
}
