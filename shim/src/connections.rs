//! The connections that come in, as the stream that the ttrpc server takes them from.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// How long to leave the listener alone when the process has run out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for ever, and tells of the first one.
pub(crate) struct Connections {
    listener: UnixListener,
    first: Option<oneshot::Sender<()>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// The connections of `listener`, and what completes when the first one has come.
    pub(crate) fn of(listener: UnixListener) -> (Self, oneshot::Receiver<()>) {
        let (first, came) = oneshot::channel();
        (Self { listener, first: Some(first), pause: None }, came)
    }
}

impl Stream for Connections {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(context)) {
                Ok((connection, _)) => {
                    if let Some(first) = this.first.take() {
                        let _ = first.send(());
                    }
                    return Poll::Ready(Some(Ok(connection)));
                }
                // The listener stays ready when accept(2) fails; asking again at once would spin.
                Err(error) => {
                    log::warn!("accept a connection: {error}");
                    this.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}
