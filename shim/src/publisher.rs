//! Events of the runtime → the daemon's event service.
//!
//! One queue, one event at a time: the next one is sent when the daemon has taken the one before,
//! because daemons act on their order. The connection is the publisher's own, is made when there is
//! something to say, and is made anew when the daemon has restarted.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use runtime_api::{Error, ErrorKind, Event, EventStream, Result, ResultExt};
use runtime_task::{error_of, event_envelope};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

/// How long the daemon may take for one event.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How often the daemon may fail to take an event that has reached it. A daemon that cannot be
/// reached is waited for without end.
const CALLS: u32 = 5;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// The socket of the event service; empty when the daemon has none.
    pub(crate) address: String,
    /// The namespace of the containers.
    pub(crate) namespace: String,
}

/// The task that forwards events.
pub(crate) struct Publisher {
    task: JoinHandle<()>,
    flush: Arc<Notify>,
}

impl Publisher {
    /// Starts to forward `events`.
    pub(crate) fn spawn(events: EventStream, destination: Destination) -> Self {
        let flush = Arc::new(Notify::new());
        let worker = Worker { destination, client: None };
        Self { task: tokio::spawn(worker.run(events, Arc::clone(&flush))), flush }
    }

    /// Forwards what is queued and ends, within `deadline`.
    pub(crate) async fn flush(mut self, deadline: Duration) {
        self.flush.notify_one();
        if timeout(deadline, &mut self.task).await.is_err() {
            log::warn!("events were given up: the daemon did not take them within {deadline:?}");
            self.task.abort();
        }
    }
}

struct Worker {
    destination: Destination,
    client: Option<EventsClient>,
}

impl Worker {
    async fn run(mut self, mut events: EventStream, flush: Arc<Notify>) {
        loop {
            let event = tokio::select! {
                biased;
                event = poll_fn(|context| events.as_mut().poll_next(context)) => event,
                () = flush.notified() => None,
            };
            match event {
                Some(event) if self.destination.address.is_empty() => drop(event),
                Some(event) => self.publish(&event).await,
                None => return,
            }
        }
    }

    async fn publish(&mut self, event: &Event) {
        let request = match self.request(event) {
            Ok(request) => request,
            Err(error) => return log::error!("an event is lost: {}", error.chain()),
        };
        let topic = &request.envelope.topic;
        let (mut pause, longest) = PAUSES;
        let mut calls = 0;
        loop {
            let connected = self.client.is_some();
            let Err(error) = self.forward(&request).await else { return };
            let reached = !matches!(error.kind(), ErrorKind::Unavailable);
            calls += u32::from(reached);
            if calls == CALLS {
                return log::error!("event {topic} is lost: {}", error.chain());
            }
            log::debug!("event {topic} has to wait: {}", error.chain());
            // A connection that has been there before may only have been the old daemon's.
            if reached || !connected {
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> Result<()> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(self.connect().await?).clone(),
        };
        let call = client.forward(ttrpc::context::Context::default(), request);
        let result = match timeout(CALL_DEADLINE, call).await {
            Ok(answer) => answer.map(drop).map_err(|error| error_of("Forward", error)),
            Err(_) => Err(Error::deadline_exceeded(format!("Forward took over {CALL_DEADLINE:?}"))),
        };
        if result.is_err() {
            self.client = None;
        }
        result
    }

    async fn connect(&self) -> Result<EventsClient> {
        let path = self.destination.address.trim_start_matches("unix://");
        let stream = UnixStream::connect(path)
            .await
            .kind(ErrorKind::Unavailable, || format!("connect to event service {path}"))?;
        Ok(EventsClient::new(Client::new(Socket::from(stream))))
    }

    fn request(&self, event: &Event) -> Result<ForwardRequest> {
        let (topic, message) = event_envelope(event)?;
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(event.at)),
            namespace: self.destination.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(message),
            ..Default::default()
        };
        Ok(ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() })
    }
}

#[cfg(test)]
mod tests;
