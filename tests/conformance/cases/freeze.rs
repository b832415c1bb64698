//! Pause and resume.

use std::time::Duration;

use runtime_api::{ErrorKind, Status};

use crate::case::{Case, case};
use crate::context::Context;

pub(crate) const CASES: &[Case] = &[
    case!("a paused container stands still, and goes on when resumed", "Pause", stands_still),
    case!("a second pause is refused", "Pause: wrong state", twice),
    case!("resume of a running container is refused", "Resume: wrong state", resume_running),
    case!("pause of a created container is refused", "Pause: wrong state", created),
    case!("pause and resume of a stopped container are refused", "Pause: wrong state", stopped),
    case!("pause and resume of an unknown container find nothing", "Pause", unknown),
    case!("an exec of a paused container is refused", "Behaviour: exec while paused", exec),
    case!("SIGKILL ends a paused container with 137", "Behaviour: kill -9 while paused", kill),
    case!("delete of a paused container is refused", "Delete", delete),
    case!("pids and stats of a paused container answer", "Pids", looked_at),
    case!("an exec is frozen with its container", "Pause", frozen_exec),
];

const TICKS: &str = "while true; do echo tick; sleep 0.05; done";

async fn stands_still(context: &Context) {
    let container = context.started(&["sh", "-c", TICKS]).await;
    container.streams.out.until("tick\n").await;
    context.allowed("pause", container.pause().await);
    context.expect("status", container.status().await.unwrap(), Status::Paused);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = container.streams.out.so_far().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    context.expect("it writes nothing", container.streams.out.so_far().len() - before, 0);
    context.allowed("resume", container.resume().await);
    context.expect("status then", container.status().await.unwrap(), Status::Running);
    tokio::time::sleep(Duration::from_millis(500)).await;
    context.expect("it writes", container.streams.out.so_far().len() > before, true);
    container.dispose().await;
}

async fn twice(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    context.refused("pause", container.pause().await, ErrorKind::FailedPrecondition);
    context.expect("status", container.status().await.unwrap(), Status::Paused);
    container.resume().await.unwrap();
    container.dispose().await;
}

async fn resume_running(context: &Context) {
    let container = context.sleeping().await;
    context.refused("resume", container.resume().await, ErrorKind::FailedPrecondition);
    container.dispose().await;
}

async fn created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    context.refused("pause", container.pause().await, ErrorKind::FailedPrecondition);
    context.refused("resume", container.resume().await, ErrorKind::FailedPrecondition);
    context.expect("status", container.status().await.unwrap(), Status::Created);
    container.delete().await.unwrap();
}

async fn stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.refused("pause", container.pause().await, ErrorKind::FailedPrecondition);
    context.refused("resume", container.resume().await, ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

async fn unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.unknown().container;
    context.refused("pause", context.runtime().pause(&unknown).await, ErrorKind::NotFound);
    context.refused("resume", context.runtime().resume(&unknown).await, ErrorKind::NotFound);
    container.dispose().await;
}

async fn exec(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    let refused = match container.exec("e", &["true"]).await {
        Ok(exec) => exec.start().await,
        Err(error) => Err(error),
    };
    context.refused("exec", refused, ErrorKind::FailedPrecondition);
    container.resume().await.unwrap();
    container.dispose().await;
}

async fn kill(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    context.allowed("kill", container.kill(9).await);
    let waited = tokio::time::timeout(Duration::from_secs(10), container.wait()).await;
    let code = waited.ok().and_then(Result::ok).map(|exit| exit.code);
    context.expect("code", code, Some(137));
    context.expect("status", container.status().await.unwrap(), Status::Stopped);
    container.delete().await.unwrap();
}

async fn delete(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    context.refused("delete", container.delete().await, ErrorKind::FailedPrecondition);
    container.resume().await.unwrap();
    container.dispose().await;
}

async fn looked_at(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    let pids = context.runtime().pids(container.container()).await.unwrap();
    context.expect("pids", pids.len(), 1);
    let stats = context.runtime().stats(container.container()).await;
    context.allowed("stats", stats);
    container.resume().await.unwrap();
    container.dispose().await;
}

async fn frozen_exec(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["sh", "-c", TICKS]).await.unwrap();
    exec.start().await.unwrap();
    exec.streams.out.until("tick\n").await;
    container.pause().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = exec.streams.out.so_far().len();
    tokio::time::sleep(Duration::from_millis(400)).await;
    context.expect("it writes nothing", exec.streams.out.so_far().len() - before, 0);
    container.resume().await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    context.expect("it writes", exec.streams.out.so_far().len() > before, true);
    container.dispose().await;
}
