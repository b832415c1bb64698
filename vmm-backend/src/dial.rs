//! A connection to a port of the guest, as a socket of the host.
//!
//! ```text
//!   caller ── socketpair ── two pumps ── Receive, Send ──► agent ──► 127.0.0.1:port
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use runtime_api::{Result, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::guest::{Connection, Guest};

/// How often is looked whether the caller is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How much is taken from the caller at once.
const CHUNK: usize = 64 << 10;

/// Connects to `port` and answers the caller's end.
pub(crate) async fn dial(guest: &Arc<Guest>, port: u16) -> Result<OwnedFd> {
    let connection = guest.dial(port).await?;
    let (ours, theirs) = StdStream::pair().internal(|| "make a socket pair")?;
    ours.set_nonblocking(true).internal(|| "prepare a socket")?;
    let (reader, writer) = UnixStream::from_std(ours).internal(|| "watch a socket")?.into_split();
    tokio::spawn(async move {
        let caller = reader.as_ref().as_fd().try_clone_to_owned();
        let both =
            async { tokio::join!(send_all(&connection, reader), receive_all(&connection, writer)) };
        tokio::select! {
            ends = both => for end in [ends.0, ends.1] {
                end.unwrap_or_else(|error| log::debug!("port {port}: {}", error.chain()));
            },
            () = hung_up(caller) => {}
        }
    });
    Ok(theirs.into())
}

/// Waits until the caller has closed its end: who only says that it will send no more still listens,
/// and to a guest that is silent nothing shows the difference but this.
async fn hung_up(caller: std::io::Result<OwnedFd>) {
    let Ok(caller) = caller else { return };
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let mut ends = [PollFd::new(&caller, PollFlags::empty())];
        let looked = poll(&mut ends, Some(&Timespec::default()));
        if looked.is_err() || ends[0].revents().contains(PollFlags::HUP) {
            return;
        }
    }
}

async fn send_all(connection: &Connection, mut reader: OwnedReadHalf) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await.internal(|| "read from the caller")? {
            0 => return connection.end_sending().await,
            count => connection.send(buffer[..count].to_vec()).await?,
        }
    }
}

async fn receive_all(connection: &Connection, mut writer: OwnedWriteHalf) -> Result<()> {
    loop {
        let data = connection.receive().await?;
        if data.is_empty() {
            return writer.shutdown().await.internal(|| "end what the caller reads");
        }
        writer.write_all(&data).await.internal(|| "write to the caller")?;
    }
}
