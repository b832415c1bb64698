//! Limits, what is used of them, and who is there.

use std::time::Duration;

use conformance::Bundle;
use runtime_api::{ContainerId, ErrorKind, Json, Result, Update};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::context::Context;
use crate::process::Process;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("stats of a running container tell what it uses", "Stats", stats),
    case!("stats are valid until the container is deleted", "Stats: stopped", stats_stopped),
    case!("stats of an unknown container are not found", "Stats", stats_unknown),
    case!("processor time is counted", "Stats: cpu", cpu),
    case!("a new limit of processes holds at once", "Update: pids", update_pids),
    case!("a new limit of memory shows in the stats", "Update: memory", update_memory),
    case!("what an update leaves out stays", "Update", update_leaves),
    case!("a created container can be updated", "Update: created", update_created),
    case!("a paused container can be updated", "Update: paused", update_paused),
    case!("update of a stopped container is refused", "Update: stopped", update_stopped),
    case!("update of an unknown container is not found", "Update", update_unknown),
    case!("resources that are no JSON are refused", "Update: malformed", update_malformed),
    case!("the limit of processes holds", "resources: pids", pids_limit),
    case!("a container that was killed for want of memory has an event", "Events: oom", oom_event)
        .pending("events of want of memory do not reach every daemon yet"),
    case!(
        "over its limit of memory a container is killed with 137",
        "Behaviour: --memory-limit",
        memory_limit
    ),
    case!("pids are never empty while a container is created or running", "Pids", pids),
    case!("pids name the execs", "Pids: ProcessDetails", pids_of_execs),
    case!("a stopped container has no pids", "Behaviour: ps on stopped", pids_stopped),
    case!("pids of an unknown container are not found", "Pids", pids_unknown),
];

async fn update(context: &Context, container: &ContainerId, resources: Value) -> Result<()> {
    let resources = Json(resources.to_string().into_bytes());
    context.runtime().update(Update { container: container.clone(), resources }).await
}

async fn stats(context: &Context) {
    let container = context.sleeping().await;
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("memory is used", stats.memory.usage > 0, true);
    context.expect("processes", stats.pids.current >= 1, true);
    context.expect("their limit", stats.pids.limit, Some(100));
    container.dispose().await;
}

async fn stats_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    context.allowed("stopped", context.runtime().stats(container.container()).await);
    container.delete().await.unwrap();
    let deleted = context.runtime().stats(container.container()).await;
    context.refused("deleted", deleted, ErrorKind::NotFound);
}

async fn stats_unknown(context: &Context) {
    let container = context.sleeping().await;
    let stats = context.runtime().stats(&context.unknown().container).await;
    context.refused("stats", stats, ErrorKind::NotFound);
    container.dispose().await;
}

async fn cpu(context: &Context) {
    let container = context.started(&["sh", "-c", "while true; do :; done"]).await;
    let usage = async || context.runtime().stats(container.container()).await.unwrap().cpu.usage;
    let first = usage().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let second = usage().await;
    context.expect("it grows", second > first, true);
    container.dispose().await;
}

async fn update_pids(context: &Context) {
    let container = context.sleeping().await;
    let updated = update(context, container.container(), json!({"pids": {"limit": 37}})).await;
    context.allowed("update", updated);
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("limit", stats.pids.limit, Some(37));
    container.dispose().await;
}

async fn update_memory(context: &Context) {
    let container = context.sleeping().await;
    let resources = json!({"memory": {"limit": 33_554_432}});
    context.allowed("update", update(context, container.container(), resources).await);
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("limit", stats.memory.limit, Some(33_554_432));
    container.dispose().await;
}

async fn update_leaves(context: &Context) {
    let container = context.sleeping().await;
    let resources = json!({"cpu": {"shares": 512}});
    context.allowed("update", update(context, container.container(), resources).await);
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("the limit of processes", stats.pids.limit, Some(100));
    container.dispose().await;
}

async fn update_created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let updated = update(context, container.container(), json!({"pids": {"limit": 38}})).await;
    context.allowed("update", updated);
    container.start().await.unwrap();
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("limit", stats.pids.limit, Some(38));
    container.dispose().await;
}

async fn update_paused(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    let updated = update(context, container.container(), json!({"pids": {"limit": 39}})).await;
    context.allowed("update", updated);
    container.resume().await.unwrap();
    let stats = context.runtime().stats(container.container()).await.unwrap();
    context.expect("limit", stats.pids.limit, Some(39));
    container.dispose().await;
}

async fn update_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    let updated = update(context, container.container(), json!({"pids": {"limit": 40}})).await;
    context.refused("update", updated, ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

async fn update_unknown(context: &Context) {
    let container = context.sleeping().await;
    let unknown = context.unknown().container;
    let updated = update(context, &unknown, json!({"pids": {"limit": 40}})).await;
    context.refused("update", updated, ErrorKind::NotFound);
    container.dispose().await;
}

async fn update_malformed(context: &Context) {
    let container = context.sleeping().await;
    let resources = Json(b"{\"pids\": ".to_vec());
    let update = Update { container: container.container().clone(), resources };
    let updated = context.runtime().update(update).await;
    context.refused("update", updated, ErrorKind::InvalidArgument);
    container.dispose().await;
}

async fn pids_limit(context: &Context) {
    let script =
        "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done 2>/dev/null; echo unlimited";
    let mut bundle = Bundle::running(&["sh", "-c", script]);
    bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 10}});
    let mut container = context.create_with(&bundle, Wanted::default()).await;
    container.start().await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(10), container.wait()).await;
    let failed = exit.ok().and_then(Result::ok).is_some_and(|exit| exit.code != 0);
    context.expect("the shell cannot fork", failed, true);
    container.delete().await.unwrap();
    let out = String::from_utf8_lossy(&container.out().await).into_owned();
    context.expect("output", out, String::new());
}

/// A container that takes more memory than it may.
async fn greedy(context: &Context) -> Process<'_> {
    // tail keeps the one line without an end that it is given.
    let mut bundle = Bundle::running(&["sh", "-c", "exec tail /dev/zero"]);
    bundle.spec["linux"]["resources"] =
        json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}, "pids": {"limit": 100}});
    let container = context.create_with(&bundle, Wanted::default()).await;
    container.start().await.unwrap();
    container
}

async fn memory_limit(context: &Context) {
    let container = greedy(context).await;
    context.expect("code", container.wait().await.unwrap().code, 137);
    let stats = context.runtime().stats(container.container()).await;
    context.allowed("stats", stats);
    container.delete().await.unwrap();
}

async fn oom_event(context: &Context) {
    let container = greedy(context).await;
    container.wait().await.unwrap();
    container.delete().await.unwrap();
    let events = context.events_until(container.container(), "delete 137").await;
    context.expect("an event", events.iter().any(|event| event == "oom"), true);
}

async fn pids(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    let count = async || context.runtime().pids(container.container()).await.unwrap().len();
    context.expect("created", count().await, 1);
    container.start().await.unwrap();
    context.expect("running", count().await, 1);
    container.dispose().await;
}

async fn pids_of_execs(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    let pids = context.runtime().pids(container.container()).await.unwrap();
    context.expect("processes", pids.len(), 2);
    let mut names: Vec<_> =
        pids.iter().map(|one| one.exec.as_ref().map(ToString::to_string)).collect();
    names.sort();
    context.expect("names", names, vec![None, Some("e".to_owned())]);
    container.dispose().await;
}

async fn pids_stopped(context: &Context) {
    let container = context.started(&["true"]).await;
    container.wait().await.unwrap();
    let pids = context.runtime().pids(container.container()).await;
    context.expect("pids", pids.map(|pids| pids.len()).map_err(|error| error.kind()), Ok(0));
    container.delete().await.unwrap();
}

async fn pids_unknown(context: &Context) {
    let container = context.sleeping().await;
    let pids = context.runtime().pids(&context.unknown().container).await;
    context.refused("pids", pids, ErrorKind::NotFound);
    container.dispose().await;
}
