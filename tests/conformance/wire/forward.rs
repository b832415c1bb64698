//! The event service of a daemon: what a shim forwards to it, as a stream.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use futures_core::Stream;
use runtime_api::{Event, EventStream, Result, ResultExt};
use runtime_task::event_of;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

/// A receiver of events that listens.
pub(super) struct Forward {
    pub(super) address: PathBuf,
    /// Listens for as long as it is kept. The lock is for the compiler: it is never shared.
    _server: Mutex<Server>,
}

impl Forward {
    /// Listens on `address`.
    pub(super) async fn listen(address: &Path) -> Result<(Self, EventStream)> {
        let (sender, receiver) = unbounded_channel();
        let what = || format!("listen on {}", address.display());
        let mut server = Server::new()
            .bind(&format!("unix://{}", address.display()))
            .internal(what)?
            .register_service(create_events(Arc::new(Receive(sender))));
        server.start().await.internal(what)?;
        let forward = Self { address: address.to_owned(), _server: Mutex::new(server) };
        Ok((forward, Box::pin(Received(receiver))))
    }
}

struct Receive(UnboundedSender<Event>);

#[async_trait]
impl Events for Receive {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = event_of(&envelope.topic, &envelope.event.value).map_err(|error| {
            ttrpc::Error::RpcStatus(get_status(Code::INVALID_ARGUMENT, error.chain()))
        })?;
        // Nobody may be left to hear it.
        let _ = self.0.send(event);
        Ok(Empty::new())
    }
}

struct Received(UnboundedReceiver<Event>);

impl Stream for Received {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}
