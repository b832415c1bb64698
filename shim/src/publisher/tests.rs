use std::time::Instant;

use runtime_api::{EventKind, Pid};
use tokio::sync::mpsc::UnboundedSender;

use super::*;
use crate::testing::{EventService, Mood, event, events};

struct Case {
    directory: tempfile::TempDir,
    events: UnboundedSender<Event>,
    publisher: Publisher,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("ttrpc").to_str().unwrap().to_owned();
        let (sender, stream) = events();
        let destination = Destination { address, namespace: "default".to_owned() };
        Self { directory, events: sender, publisher: Publisher::spawn(stream, destination) }
    }

    async fn daemon(&self, mood: Mood) -> EventService {
        EventService::listen(&self.directory.path().join("ttrpc"), mood).await
    }

    fn send(&self, kinds: impl IntoIterator<Item = EventKind>) {
        kinds.into_iter().for_each(|kind| self.events.send(event("a", kind)).unwrap());
    }
}

const START: EventKind = EventKind::Start { pid: Pid(1) };

#[tokio::test]
async fn an_envelope_is_complete() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Well).await;
    case.send([START]);
    let (topic, envelope) = daemon.next().await;
    assert_eq!((topic.as_str(), envelope.namespace.as_str()), ("/tasks/start", "default"));
    assert_eq!(envelope.event.type_url, "containerd.events.TaskStart");
    assert!(envelope.timestamp.seconds > 0);
}

#[tokio::test]
async fn events_wait_in_order_for_a_daemon_that_comes_late() {
    let case = Case::new();
    case.send([START, EventKind::Paused, EventKind::Resumed, EventKind::Oom]);
    sleep(Duration::from_millis(120)).await;
    let mut daemon = case.daemon(Mood::Well).await;
    for expected in ["start", "paused", "resumed", "oom"] {
        assert_eq!(daemon.next().await.0, format!("/tasks/{expected}"));
    }
}

#[tokio::test]
async fn a_daemon_that_restarts_misses_nothing() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Well).await;
    case.send([START]);
    daemon.next().await;
    daemon.die().await;
    case.send([EventKind::Paused, EventKind::Resumed]);
    let mut daemon = case.daemon(Mood::Well).await;
    assert_eq!(daemon.next().await.0, "/tasks/paused");
    assert_eq!(daemon.next().await.0, "/tasks/resumed");
}

#[tokio::test]
async fn a_refused_event_is_tried_again_before_the_next_one() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Refuses(2)).await;
    case.send([START, EventKind::Paused]);
    assert_eq!(daemon.next().await.0, "/tasks/start");
    assert_eq!(daemon.next().await.0, "/tasks/paused");
}

#[tokio::test]
async fn an_event_that_is_always_refused_does_not_hold_the_others_up() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Refuses(CALLS)).await;
    case.send([START, EventKind::Paused]);
    assert_eq!(daemon.next().await.0, "/tasks/paused");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_deadline() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Hangs(1)).await;
    let begin = tokio::time::Instant::now();
    case.send([START]);
    assert_eq!(daemon.next().await.0, "/tasks/start");
    assert!(begin.elapsed() >= CALL_DEADLINE);
}

#[tokio::test]
async fn a_flush_delivers_what_is_queued() {
    let case = Case::new();
    let mut daemon = case.daemon(Mood::Well).await;
    case.send([START, EventKind::Paused]);
    case.publisher.flush(Duration::from_secs(5)).await;
    assert_eq!(daemon.next().await.0, "/tasks/start");
    assert_eq!(daemon.next().await.0, "/tasks/paused");
}

#[tokio::test]
async fn a_flush_gives_up_on_a_daemon_that_is_gone() {
    let case = Case::new();
    case.send([START]);
    let begin = Instant::now();
    case.publisher.flush(Duration::from_millis(100)).await;
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn without_an_event_service_events_are_dropped() {
    let (sender, stream) = events();
    let destination = Destination { address: String::new(), namespace: "default".to_owned() };
    let publisher = Publisher::spawn(stream, destination);
    sender.send(event("a", START)).unwrap();
    timeout(Duration::from_secs(5), publisher.flush(Duration::from_secs(60))).await.unwrap();
}
