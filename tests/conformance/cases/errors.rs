//! What is found wrong at Create, and what is left then.

use std::fs;

use conformance::Bundle;
use runtime_api::{Endpoint, ErrorKind, Result};
use serde_json::json;

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("a missing executable fails at create", "Create: missing executable", executable),
    case!("a name that PATH does not have fails at create", "Create", not_in_path),
    case!("a file that may not be executed fails at create", "Create", not_executable),
    case!("a working directory that is a file fails at create", "Create: bad cwd", directory),
    case!("a bundle that is not there fails at create", "create_container", no_bundle),
    case!("a root that is not there fails at create", "create_container", no_root),
    case!("a process without words fails at create", "create_container", no_words),
    case!("a limit that does not exist fails at create", "create_container", unknown_limit),
    case!("a mount without its source fails at create", "Behaviour: --mount", no_source),
    case!("a fifo that is not there fails at create", "create_container", no_fifo),
    case!("a log file in no directory fails at create", "create_container", no_log_directory),
    case!("the network of the host is refused", "Behaviour: --net-host", host_network),
    case!("a device of no kind fails at create", "config.md: devices", no_device),
    case!("an id is free again after a failed creation", "Failure leaves nothing", free_again),
];

async fn fails(context: &Context, bundle: &Bundle) -> Result<()> {
    context.try_create(bundle, Wanted::default()).await.map(drop)
}

async fn executable(context: &Context) {
    let created = fails(context, &Bundle::running(&["/nope"])).await;
    context.refused("create", created, ErrorKind::NotFound);
}

async fn not_in_path(context: &Context) {
    let created = fails(context, &Bundle::running(&["nope"])).await;
    context.refused("create", created, ErrorKind::NotFound);
}

async fn not_executable(context: &Context) {
    let bundle = Bundle::running(&["/etc/plain"]);
    let (request, streams) = context.request(&bundle, Wanted::default());
    fs::write(request.bundle.join("rootfs/etc/plain"), "text").unwrap();
    context.typed("create", context.create_as(request, streams).await.map(drop));
}

async fn directory(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    bundle.spec["process"]["cwd"] = json!("/bin/busybox");
    context.typed("create", fails(context, &bundle).await);
}

async fn no_bundle(context: &Context) {
    let (mut request, streams) = context.request(&Bundle::running(&["true"]), Wanted::default());
    fs::remove_file(request.bundle.join("config.json")).unwrap();
    request.bundle = request.bundle.join(".");
    context.typed("create", context.create_as(request, streams).await.map(drop));
}

async fn no_root(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    bundle.spec["root"]["path"] = json!("nowhere");
    context.typed("create", fails(context, &bundle).await);
}

async fn no_words(context: &Context) {
    let created = fails(context, &Bundle::running(&[])).await;
    context.refused("create", created, ErrorKind::InvalidArgument);
}

async fn unknown_limit(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    let limit = json!({"type": "RLIMIT_COLOUR", "soft": 1, "hard": 1});
    bundle.spec["process"]["rlimits"] = json!([limit]);
    context.refused("create", fails(context, &bundle).await, ErrorKind::InvalidArgument);
}

async fn no_source(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    let mount = json!({"type": "bind", "source": "/nowhere/at/all", "destination": "/mnt",
                       "options": ["rbind"]});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    context.refused("create", fails(context, &bundle).await, ErrorKind::NotFound);
}

async fn no_fifo(context: &Context) {
    let (mut request, streams) = context.request(&Bundle::running(&["true"]), Wanted::default());
    request.stdio.stdout = Endpoint::Fifo(context.root.join("nowhere"));
    let created = context.create_as(request, streams).await.map(drop);
    context.refused("create", created, ErrorKind::NotFound);
}

async fn no_log_directory(context: &Context) {
    let (mut request, streams) = context.request(&Bundle::running(&["true"]), Wanted::default());
    request.stdio.stdout = Endpoint::File(context.root.join("nowhere/log"));
    let created = context.create_as(request, streams).await.map(drop);
    context.refused("create", created, ErrorKind::NotFound);
}

async fn host_network(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    let kinds = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    kinds.retain(|kind| kind["type"] != "network");
    context.typed("create", fails(context, &bundle).await);
}

async fn no_device(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    let device = json!({"path": "/dev/mine", "type": "q", "major": 1, "minor": 5});
    bundle.spec["linux"]["devices"] = json!([device]);
    context.refused("create", fails(context, &bundle).await, ErrorKind::InvalidArgument);
}

async fn free_again(context: &Context) {
    let nope = Bundle::running(&["/nope"]);
    let (request, streams) = context.request(&nope, Wanted::default());
    let id = request.id.clone();
    context.refused(
        "first",
        context.create_as(request, streams).await.map(drop),
        ErrorKind::NotFound,
    );
    let (mut request, streams) =
        context.request(&Bundle::running(&["sh", "-c", "exit 4"]), Wanted::default());
    request.id = id;
    let mut second = context.create_as(request, streams).await.unwrap();
    context.expect("second", second.run().await.code, 4);
}
