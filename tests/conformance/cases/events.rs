//! What is announced, and in which order.

use std::time::Duration;

use conformance::Bundle;
use runtime_api::ErrorKind;

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("the start of a process that ends at once comes before its exit", "Start", quick),
    case!("an exec is added, started and ended, and then the container", "Events: exec", exec),
    case!("the exits of execs come before the exit of their init", "Events: order", init_last),
    case!("a container that never ran exits when it is killed", "Kill: CREATED", killed_created),
    case!("a creation that fails is not announced", "Behaviour: /nope", failed_creation),
    case!("pause and resume are announced", "Events: paused", paused),
    case!("a state is latched before its event is sent", "Latch, then announce", latched),
    case!("there is one reader of the events", "events()", one_reader),
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn quick(context: &Context) {
    let container = context.create(&["true"]).await;
    let mut orders = Vec::new();
    for number in 0..10 {
        let id = format!("e{number}");
        let mut exec = match container.exec(&id, &["true"]).await {
            Ok(exec) => exec,
            Err(error) => panic!("{}", error.chain()),
        };
        exec.run().await;
        let events = context.events_until(container.container(), &format!("exit {id} 0")).await;
        let about = |event: &&String| event.split(' ').nth(1) == Some(id.as_str());
        let kinds = events.iter().filter(about).filter_map(|event| event.split(' ').next());
        orders.push(kinds.collect::<Vec<_>>().join(" "));
    }
    context.expect("execs", orders, vec!["exec-added exec-started exit".to_owned(); 10]);
    container.start().await.unwrap();
    container.wait().await.unwrap();
    container.delete().await.unwrap();
    let events = context.events_until(container.container(), "delete 0").await;
    let ours: Vec<_> = events.into_iter().filter(|event| !event.contains(" e")).collect();
    let ours: Vec<_> = ours.into_iter().filter(|event| !event.starts_with("exec")).collect();
    context.expect("init", ours, words(&["create", "start", "exit 0", "delete 0"]));
}

async fn exec(context: &Context) {
    let container = context.sleeping().await;
    let mut exec = container.exec("e", &["sh", "-c", "exit 5"]).await.unwrap();
    exec.run().await;
    container.dispose().await;
    let events = context.events_until(container.container(), "delete 137").await;
    let wanted = words(&[
        "create",
        "start",
        "exec-added e",
        "exec-started e",
        "exit e 5",
        "exit 137",
        "delete 137",
    ]);
    context.expect("events", events, wanted);
}

async fn init_last(context: &Context) {
    let container = context.sleeping().await;
    let exec = container.exec("e", &["sleep", "1000"]).await.unwrap();
    exec.start().await.unwrap();
    container.kill(9).await.unwrap();
    context.expect("exec", exec.wait().await.unwrap().code, 137);
    context.expect("init", container.wait().await.unwrap().code, 137);
    let events = context.events_until(container.container(), "exit 137").await;
    let exits: Vec<_> = events.into_iter().filter(|event| event.starts_with("exit")).collect();
    context.expect("exits", exits, words(&["exit e 137", "exit 137"]));
    context.allowed("delete exec", exec.delete().await);
    container.delete().await.unwrap();
}

async fn killed_created(context: &Context) {
    let container = context.create(&["sleep", "1000"]).await;
    container.kill(9).await.unwrap();
    context.expect("code", container.wait().await.unwrap().code, 137);
    container.delete().await.unwrap();
    let events = context.events_until(container.container(), "delete 137").await;
    context.expect("events", events, words(&["create", "exit 137", "delete 137"]));
}

async fn failed_creation(context: &Context) {
    // Beside it one that lives, whose server would tell.
    let container = context.sleeping().await;
    let (request, streams) = context.request(&Bundle::running(&["/nope"]), Wanted::default());
    let id = request.id.clone();
    let created = context.create_as(request, streams).await.map(drop);
    context.refused("create", created, ErrorKind::NotFound);
    tokio::time::sleep(Duration::from_millis(300)).await;
    context.expect("events", context.events_of(&id), Vec::new());
    container.dispose().await;
}

async fn paused(context: &Context) {
    let container = context.sleeping().await;
    container.pause().await.unwrap();
    container.resume().await.unwrap();
    container.dispose().await;
    let events = context.events_until(container.container(), "delete 137").await;
    let wanted = words(&["create", "start", "paused", "resumed", "exit 137", "delete 137"]);
    context.expect("events", events, wanted);
}

async fn latched(context: &Context) {
    let container = context.started(&["sh", "-c", "exit 6"]).await;
    context.events_until(container.container(), "exit 6").await;
    let state = container.state().await.unwrap();
    context.expect("code", state.exit.map(|exit| exit.code), Some(6));
    container.delete().await.unwrap();
}

async fn one_reader(context: &Context) {
    let taken = context.runtime().events().map(drop);
    context.refused("a second reader", taken, ErrorKind::FailedPrecondition);
}
