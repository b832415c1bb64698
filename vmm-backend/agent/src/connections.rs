//! Connections to ports of the guest, on behalf of the host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime_api::{Error, ErrorKind, Result, ResultExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long a listener in the same guest may take to let a connection in.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// How many connections a host may have at once.
const MAX_CONNECTIONS: usize = 1024;

/// The open connections.
#[derive(Default)]
pub(crate) struct Connections(Mutex<Open>);

#[derive(Default)]
struct Open {
    last: u64,
    all: HashMap<u64, Arc<Connection>>,
}

struct Connection {
    receiving: tokio::sync::Mutex<OwnedReadHalf>,
    /// `None` when it was shut down.
    sending: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        self.open().all.clear();
    }

    /// Connects to a port.
    pub(crate) async fn dial(&self, port: u32) -> Result<u64> {
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::invalid_argument(format!("{port} is not a port")))?;
        if self.open().all.len() >= MAX_CONNECTIONS {
            let message = format!("{MAX_CONNECTIONS} connections are open already");
            return Err(Error::unavailable(message));
        }
        let connecting = timeout(DIAL_DEADLINE, connect(port)).await;
        let stream = connecting.map_err(|_| {
            Error::unavailable(format!("port {port} let nobody in for {DIAL_DEADLINE:?}"))
        })??;
        let (receiving, sending) = stream.into_split();
        let connection = Connection { receiving: receiving.into(), sending: Some(sending).into() };
        let mut open = self.open();
        open.last += 1;
        let id = open.last;
        open.all.insert(id, Arc::new(connection));
        Ok(id)
    }

    fn find(&self, id: u64) -> Result<Arc<Connection>> {
        let found = self.open().all.get(&id).cloned();
        found.ok_or_else(|| Error::not_found(format!("connection {id}")))
    }

    /// Takes what has been received; nothing at its end.
    pub(crate) async fn receive(&self, id: u64, credit: usize) -> Result<Vec<u8>> {
        let connection = self.find(id)?;
        let mut receiving = connection.receiving.try_lock().map_err(|_| {
            Error::failed_precondition(format!("another call receives from connection {id}"))
        })?;
        // Nothing is set aside for a connection that is silent.
        receiving.readable().await.internal(|| "wait for a connection")?;
        let mut data = Vec::with_capacity(credit);
        let received = receiving.read_buf(&mut data).await;
        // A connection that was reset is at its end as well.
        received.map_or(Ok(Vec::new()), |_| Ok(data))
    }

    /// Sends all of `data`.
    pub(crate) async fn send(&self, id: u64, data: &[u8]) -> Result<()> {
        let connection = self.find(id)?;
        let mut sending = connection.sending.lock().await;
        let closed = || format!("connection {id} takes no more");
        let stream = sending.as_mut().ok_or_else(|| Error::failed_precondition(closed()))?;
        stream.write_all(data).await.kind(ErrorKind::FailedPrecondition, closed)
    }

    /// Ends what is sent, or all of it.
    pub(crate) async fn hang_up(&self, id: u64, sending_only: bool) -> Result<()> {
        let found = match sending_only {
            true => self.open().all.get(&id).cloned(),
            false => self.open().all.remove(&id),
        };
        if let Some(connection) = found.filter(|_| sending_only) {
            // To drop this half shuts it down.
            *connection.sending.lock().await = None;
        }
        Ok(())
    }
}

/// By the address that most listen on, and then by the other one.
async fn connect(port: u16) -> Result<TcpStream> {
    let addresses =
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
    match TcpStream::connect(addresses[0]).await {
        Ok(stream) => Ok(stream),
        Err(refused) => TcpStream::connect(addresses[1]).await.map_err(|_| {
            Error::unavailable(format!("connect to port {port}")).with_source(refused)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).await.unwrap();
            stream.write_all(format!("heard {asked}").as_bytes()).await.unwrap();
        });
        let connections = Connections::default();
        let id = connections.dial(port.into()).await.unwrap();
        connections.send(id, b"hello").await.unwrap();
        connections.hang_up(id, true).await.unwrap();
        assert!(connections.send(id, b"late").await.is_err());
        assert_eq!(connections.receive(id, 100).await.unwrap(), b"heard hello");
        assert!(connections.receive(id, 100).await.unwrap().is_empty());
        server.await.unwrap();
        connections.hang_up(id, false).await.unwrap();
        assert_eq!(connections.receive(id, 1).await.unwrap_err().kind(), ErrorKind::NotFound);
        let refused = connections.dial(port.into()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert_eq!(connections.dial(0).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
