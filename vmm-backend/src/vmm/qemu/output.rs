//! The last words of a machine: what console and VMM printed, in bounded memory of the owner.
//!
//! Neither goes to a file, because a guest could fill the host's disk through it. The console is a
//! socket whose output QEMU discards while nobody is connected. QEMU's stderr is a pipe that QEMU
//! itself holds open for reading too: it outlives its owner without SIGPIPE, and a full pipe loses
//! words instead of stopping QEMU.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

/// What is kept of each source, in bytes: a kernel's panic message with its registers and stack
/// fits.
const LIMIT: usize = 8 * 1024;

/// The end of a byte stream.
#[derive(Default)]
pub(super) struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    /// Reads until the end of the stream.
    pub(super) async fn collect(&self, mut reader: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            self.push(&buffer[..count]);
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(LIMIT);
        kept.drain(..surplus);
    }

    /// The text without anything that could steer a terminal or forge a log line.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
    }

    /// The last line that is not blank.
    pub(super) fn last_line(&self) -> Option<String> {
        let text = self.text();
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// A pipe for stderr: the end to read from, and the descriptor for QEMU.
pub(super) fn stderr_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, _writer) = io::pipe()?;
    let both: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", reader.as_raw_fd()))?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, both.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_is_kept() {
        let tail = Tail::default();
        let flood = [b"x".repeat(100_000), b"\nthe end\n\n".to_vec()].concat();
        tail.collect(flood.as_slice()).await;
        assert_eq!(tail.text().len(), LIMIT);
        assert_eq!(tail.last_line().unwrap(), "the end");
    }

    #[test]
    fn what_steers_a_terminal_is_removed() {
        let tail = Tail::default();
        tail.push(b"\x1b[2Jpanic\r\n\xff\x00");
        assert_eq!(tail.text(), "[2Jpanic\n\u{fffd}");
    }

    #[tokio::test]
    async fn the_pipe_ends_when_the_other_side_is_closed() {
        use std::io::Write;
        let (reader, writer) = stderr_pipe().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"last words").unwrap();
        drop(writer);
        let tail = Tail::default();
        tail.collect(reader).await;
        assert_eq!(tail.text(), "last words");
    }
}
