//! The one queue of events of a runtime.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use runtime_api::{Error, Event, EventStream, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Events go in from everywhere and come out once, in the order in which they went in.
///
/// It has no bound because each event belongs to a request of the daemon that is its only reader.
pub(crate) struct EventQueue {
    sender: UnboundedSender<Event>,
    receiver: Mutex<Option<UnboundedReceiver<Event>>>,
}

impl EventQueue {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }

    pub(crate) fn send(&self, event: Event) {
        // Nobody listens any more: then nobody is owed the event.
        let _ = self.sender.send(event);
    }

    pub(crate) fn take(&self) -> Result<EventStream> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        match receiver {
            Some(receiver) => Ok(Box::pin(Events(receiver))),
            None => Err(Error::failed_precondition("the events have been taken before")),
        }
    }
}

struct Events(UnboundedReceiver<Event>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}
