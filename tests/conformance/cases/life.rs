//! Create, start, wait, state, delete.

use runtime_api::{ErrorKind, Status};

use crate::case::{Case, case};
use crate::context::Context;

pub(crate) const CASES: &[Case] = &[
    case!("a container runs: exit code, both streams, events in order", "Events: order", whole_life),
    case!("delete of a running container is refused, a second delete finds nothing", "Delete", deletion),
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

async fn deletion(context: &Context) {
    let container = context.sleeping().await;
    context.refused("running", container.delete().await, ErrorKind::FailedPrecondition);
    container.dispose().await;
    context.refused("again", container.delete().await, ErrorKind::NotFound);
}
