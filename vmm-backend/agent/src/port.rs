//! The virtio-serial port, as a sequence of connections.
//!
//! ```text
//!              host connects                         host disconnects
//!   waiting ───────────────────► one PortConnection ──────────────────► draining ──► waiting
//! ```
//!
//! The port is one device that is opened once: to close it would lose what is queued. While no host
//! is connected, poll(2) reports POLLHUP and read(2) returns 0. Each host that connects gets a
//! connection of its own, because its stream ids start anew; what a dead host has left behind,
//! half a frame perhaps, is thrown away in between. A host that reconnects within the few
//! milliseconds in which nobody looked may lose its first request: it has to give `Resume` a
//! deadline, disconnect and try again.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime_api::{Error, Result, ResultExt};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::sys;

const PORTS: &str = "/sys/class/virtio-ports";

/// How long a guest waits for its port to appear.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// How often a port without a host is looked at; there is no event that tokio could wait for,
/// because it takes POLLHUP for the end of a descriptor's life.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// The connections of a port, one after the other; never two at a time.
pub struct Incoming(mpsc::Receiver<io::Result<PortConnection>>);

impl Stream for Incoming {
    type Item = io::Result<PortConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Opens the port called `name` and yields a connection for every host that connects to it.
///
/// # Errors
/// `NotFound` when there is no such port.
pub async fn listen(name: &str) -> Result<Incoming> {
    let device = device_of(name).await?;
    let port: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&device)
        .internal(|| format!("open port {name} at {}", device.display()))?
        .into();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // What the first host has sent already is for its connection.
        while let Ok(connection) = next_host(&port).await {
            // Held by the connection for as long as it lives.
            let (alive, mut closed) = mpsc::channel::<()>(1);
            let connection = connection.map(|fd| PortConnection { fd, _alive: alive });
            if sender.send(connection).await.is_err() {
                return;
            }
            closed.recv().await;
            if let Err(error) = discard(&port).await {
                return log::error!("read what a host has left behind: {error}");
            }
        }
    });
    Ok(Incoming(receiver))
}

/// Throws away what the previous host has sent and nobody has read.
async fn discard(port: &OwnedFd) -> io::Result<()> {
    let mut waste = vec![0; 1 << 16];
    loop {
        match nix::unistd::read(port, &mut waste) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a host. The inner error concerns its connection, the outer one the port.
async fn next_host(port: &OwnedFd) -> io::Result<io::Result<AsyncFd<OwnedFd>>> {
    while !has_host(port)? {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(port.try_clone().and_then(sys::watch))
}

fn has_host(port: &OwnedFd) -> io::Result<bool> {
    let mut look = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
    poll(&mut look, PollTimeout::ZERO)?;
    Ok(!look[0].revents().unwrap_or(PollFlags::empty()).contains(PollFlags::POLLHUP))
}

async fn device_of(name: &str) -> Result<PathBuf> {
    let find = async {
        loop {
            if let Some(device) = look_up(Path::new(PORTS), name) {
                return device;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(PORT_DEADLINE, find)
        .await
        .map_err(|_| Error::not_found(format!("port {name} under {PORTS}")))
}

fn look_up(ports: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(ports).ok()?;
    entries.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// The bytes to and from one host.
pub struct PortConnection {
    fd: AsyncFd<OwnedFd>,
    /// Tells the listener, by being dropped, that the next host may come.
    _alive: mpsc::Sender<()>,
}

impl AsyncRead for PortConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            // The host has gone. It may be back by now, but not to finish what it was sending.
            if guard.ready().is_read_closed() {
                return Poll::Ready(Ok(()));
            }
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for PortConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            if guard.ready().is_write_closed() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_name() {
        let ports = tempfile::tempdir().unwrap();
        for (device, name) in [("vport1p1", "other\n"), ("vport1p2", "vmrt.agent\n")] {
            fs::create_dir(ports.path().join(device)).unwrap();
            fs::write(ports.path().join(device).join("name"), name).unwrap();
        }
        let found = look_up(ports.path(), "vmrt.agent");
        assert_eq!(found, Some(PathBuf::from("/dev/vport1p2")));
        assert_eq!(look_up(ports.path(), "nobody"), None);
    }
}
