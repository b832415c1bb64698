//! The agent's ends of the streams of a process.
//!
//! Output waits in the kernel's pipe until the host asks for it, so that the agent never holds more
//! than the one chunk that the host has not acknowledged, and a process whose output nobody takes
//! blocks itself and nobody else.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use runtime_api::{Endpoint, Error, Result, ResultExt, Stdio, WindowSize};
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::sys;

/// How long a reader may take to notice that its host has gone.
const TAKEOVER_DEADLINE: Duration = Duration::from_secs(2);

/// What a pipe holds at first (pipe(7)).
const FULL_PIPE: usize = 64 << 10;
/// What a pipe holds once it has been found full.
const LARGE_PIPE: i32 = 256 << 10;

/// Which output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// What there is to tell about an output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Data(Vec<u8>),
    /// No writer is left and nothing is queued.
    End,
    /// The process has exited and what it had written has been taken.
    Drained,
}

/// What the host wants of an output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// How much of the stream it has passed on: that is forgotten now.
    pub(crate) offset: u64,
    /// How many bytes it takes.
    pub(crate) credit: usize,
    /// Whether it has been told of [`Chunk::Drained`].
    pub(crate) knows_drained: bool,
}

/// The three descriptors that a process is given: input, output, error output.
pub(crate) type Given = [OwnedFd; 3];

/// The agent's ends.
pub(crate) struct Streams {
    input: Input,
    stdout: Reader,
    stderr: Reader,
    terminal: Option<OwnedFd>,
}

impl Streams {
    /// Makes pipes, and what the process gets of them. Ends that the process does not have yet are
    /// all closed by exec(2).
    pub(crate) fn pipes(stdio: &Stdio) -> Result<(Self, Given)> {
        let null = || -> io::Result<OwnedFd> {
            Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
        };
        let make = |endpoint: &Endpoint| -> io::Result<Option<(OwnedFd, OwnedFd)>> {
            Ok(match endpoint {
                Endpoint::Channel => Some(pipe2(OFlag::O_CLOEXEC)?),
                _ => None,
            })
        };
        let open = || -> io::Result<(Self, Given)> {
            let (input, process_input) = match make(&stdio.stdin)? {
                Some((reader, writer)) => (Some(writer), reader),
                None => (None, null()?),
            };
            let output = |endpoint| -> io::Result<(Option<OwnedFd>, OwnedFd)> {
                Ok(match make(endpoint)? {
                    Some((reader, writer)) => (Some(reader), writer),
                    None => (None, null()?),
                })
            };
            let (stdout, process_stdout) = output(&stdio.stdout)?;
            let (stderr, process_stderr) = output(&stdio.stderr)?;
            let streams = Self {
                input: Input::new(input)?,
                stdout: Reader::new(stdout)?,
                stderr: Reader::new(stderr)?,
                terminal: None,
            };
            Ok((streams, [process_input, process_stdout, process_stderr]))
        };
        open().internal(|| "make the pipes of a process")
    }

    /// Uses the master of a pseudo terminal.
    pub(crate) fn terminal(master: OwnedFd, stdio: &Stdio) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let copy = |endpoint: &Endpoint| {
                (*endpoint == Endpoint::Channel).then(|| master.try_clone()).transpose()
            };
            Ok(Self {
                input: Input::new(copy(&stdio.stdin)?)?,
                stdout: Reader::new(copy(&stdio.stdout)?)?,
                stderr: Reader::new(None)?,
                terminal: Some(master),
            })
        };
        open().internal(|| "take over the terminal of a process")
    }

    pub(crate) fn input(&self) -> &Input {
        &self.input
    }

    pub(crate) fn output(&self, output: Output) -> &Reader {
        match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        }
    }

    /// Sets the size of the terminal; without one it does nothing.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<()> {
        match &self.terminal {
            Some(master) => sys::set_window_size(master, size).internal(|| "resize a terminal"),
            None => Ok(()),
        }
    }
}

/// The reading end of one output.
pub(crate) struct Reader(Mutex<ReaderState>);

struct ReaderState {
    /// `None` at the end of the stream.
    fd: Option<AsyncFd<OwnedFd>>,
    /// Where in the stream `kept` begins.
    position: u64,
    /// What has been answered and not been acknowledged.
    kept: Vec<u8>,
}

impl ReaderState {
    /// Forgets what lies before `offset`.
    fn acknowledge(&mut self, offset: u64) -> Result<()> {
        let passed = offset.checked_sub(self.position).and_then(|passed| {
            usize::try_from(passed).ok().filter(|passed| *passed <= self.kept.len())
        });
        let Some(passed) = passed else {
            return Err(Error::invalid_argument(format!(
                "offset {offset} is not in {}..={}",
                self.position,
                self.position + self.kept.len() as u64
            )));
        };
        if passed == self.kept.len() {
            self.kept = Vec::new();
        } else {
            self.kept.drain(..passed);
        }
        self.position = offset;
        Ok(())
    }
}

impl Reader {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        let fd = fd.map(sys::watch).transpose()?;
        Ok(Self(Mutex::new(ReaderState { fd, position: 0, kept: Vec::new() })))
    }

    /// Waits until there is something to tell. `exited` completes when the process has ended.
    pub(crate) async fn read(
        &self,
        wanted: Wanted,
        exited: impl Future<Output = ()>,
    ) -> Result<Chunk> {
        // The call of a host that has gone goes too, though perhaps not at once.
        let Ok(mut state) = timeout(TAKEOVER_DEADLINE, self.0.lock()).await else {
            return Err(Error::failed_precondition("another call reads this stream already"));
        };
        let credit = wanted.credit;
        state.acknowledge(wanted.offset)?;
        if !state.kept.is_empty() {
            let count = state.kept.len().min(credit);
            return Ok(Chunk::Data(state.kept[..count].to_vec()));
        }
        let Some(fd) = &state.fd else { return Ok(Chunk::End) };
        let taken = tokio::select! {
            // What there is comes before the news that there will be no more.
            biased;
            taken = wait_and_take(fd, credit) => taken,
            () = exited, if !wanted.knows_drained => take(fd.get_ref(), credit),
        };
        match taken {
            Ok(data) if data.is_empty() => state.fd = None,
            Ok(data) => {
                state.kept.clone_from(&data);
                return Ok(Chunk::Data(data));
            }
            // The last slave of a terminal is closed.
            Err(Errno::EIO) => state.fd = None,
            Err(Errno::EAGAIN) => return Ok(Chunk::Drained),
            Err(error) => return Err(error).internal(|| "read the output of a process"),
        }
        Ok(Chunk::End)
    }
}

async fn wait_and_take(fd: &AsyncFd<OwnedFd>, credit: usize) -> nix::Result<Vec<u8>> {
    loop {
        let mut guard = fd.readable().await.map_err(|_| Errno::EBADF)?;
        match take(fd.get_ref(), credit) {
            Err(Errno::EAGAIN) => guard.clear_ready(),
            taken => return taken,
        }
    }
}

/// Reads once, into no more memory than what is queued.
fn take(fd: &OwnedFd, credit: usize) -> nix::Result<Vec<u8>> {
    let queued = sys::queued(fd).unwrap_or(0).clamp(1, credit);
    if queued == FULL_PIPE {
        // Who writes so much is asked less often, and the pages cost nothing until they are used. The
        // kernel may refuse, and then all is as before.
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(LARGE_PIPE));
    }
    let mut data = vec![0; queued];
    loop {
        match nix::unistd::read(fd, &mut data) {
            Err(Errno::EINTR) => {}
            Ok(count) => {
                data.truncate(count);
                return Ok(data);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The writing end of the input.
pub(crate) struct Input {
    /// `None` when there is none, or no more. Writers queue up here, and so does the end.
    fd: Mutex<Option<AsyncFd<OwnedFd>>>,
    closed: AtomicBool,
}

impl Input {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        let fd = fd.map(sys::watch).transpose()?;
        Ok(Self { closed: AtomicBool::new(fd.is_none()), fd: Mutex::new(fd) })
    }

    /// Writes all of `data`, waiting for room.
    pub(crate) async fn write(&self, mut data: &[u8]) -> Result<()> {
        let closed = || Error::failed_precondition("the input of the process is closed");
        if self.closed.load(Ordering::Relaxed) {
            return Err(closed());
        }
        let mut input = self.fd.lock().await;
        while !data.is_empty() {
            let fd = input.as_ref().ok_or_else(closed)?;
            let mut guard = fd.writable().await.internal(|| "wait for room in an input")?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                Ok(Ok(count)) => data = &data[count..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => {
                    // Nobody can read any more: no room will ever come for those who queue.
                    *input = None;
                    self.closed.store(true, Ordering::Relaxed);
                    return Err(closed().with_source(error));
                }
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Ends the input after what is queued. Returns when that is done.
    pub(crate) async fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            *self.fd.lock().await = None;
        }
    }

    #[cfg(test)]
    fn is_open(&self) -> bool {
        self.fd.try_lock().is_ok_and(|fd| fd.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use super::*;

    fn channels() -> Stdio {
        let channel = Endpoint::Channel;
        Stdio { stdin: channel.clone(), stdout: channel.clone(), stderr: channel, terminal: false }
    }

    fn from(offset: u64, credit: usize) -> Wanted {
        Wanted { offset, credit, knows_drained: false }
    }

    #[tokio::test]
    async fn output_is_told_in_order_data_then_drained_then_the_end() {
        let (streams, [_, stdout, _]) = Streams::pipes(&channels()).unwrap();
        let reader = streams.output(Output::Stdout);
        nix::unistd::write(&stdout, b"hello").unwrap();
        assert_eq!(reader.read(from(0, 3), pending()).await.unwrap(), Chunk::Data(b"hel".into()));
        assert_eq!(reader.read(from(3, 9), ready(())).await.unwrap(), Chunk::Data(b"lo".into()));
        assert_eq!(reader.read(from(5, 9), ready(())).await.unwrap(), Chunk::Drained);
        // Somebody who inherited the stream still writes.
        nix::unistd::write(&stdout, b"late").unwrap();
        assert_eq!(reader.read(from(5, 9), ready(())).await.unwrap(), Chunk::Data(b"late".into()));
        drop(stdout);
        assert_eq!(reader.read(from(9, 9), ready(())).await.unwrap(), Chunk::End);
        assert_eq!(reader.read(from(9, 9), pending()).await.unwrap(), Chunk::End);
    }

    #[tokio::test]
    async fn what_was_not_acknowledged_is_told_again() {
        let (streams, [_, stdout, _]) = Streams::pipes(&channels()).unwrap();
        let reader = streams.output(Output::Stdout);
        nix::unistd::write(&stdout, b"hello").unwrap();
        drop(stdout);
        for (offset, text) in [(0, "hello"), (0, "hello"), (2, "llo"), (4, "o")] {
            let chunk = reader.read(from(offset, 9), pending()).await.unwrap();
            assert_eq!(chunk, Chunk::Data(text.into()));
        }
        for bad in [3, 6] {
            let error = reader.read(from(bad, 9), pending()).await.unwrap_err();
            assert_eq!(error.kind(), runtime_api::ErrorKind::InvalidArgument);
        }
        assert_eq!(reader.read(from(5, 9), pending()).await.unwrap(), Chunk::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_reader_of_a_stream_is_refused() {
        let (streams, _given) = Streams::pipes(&channels()).unwrap();
        let reader = streams.output(Output::Stderr);
        let first = reader.read(from(0, 1), pending());
        let second = async { reader.read(from(0, 1), pending()).await.unwrap_err() };
        tokio::select! {
            biased;
            _ = first => panic!("nothing was written"),
            error = second => {
                assert_eq!(error.kind(), runtime_api::ErrorKind::FailedPrecondition);
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_the_input_waits_for_what_is_queued() {
        let (streams, [stdin, _stdout, _stderr]) = Streams::pipes(&channels()).unwrap();
        let streams = Arc::new(streams);
        let data = vec![7; 300_000];
        let writer = tokio::spawn({
            let (streams, data) = (Arc::clone(&streams), data.clone());
            async move { streams.input().write(&data).await }
        });
        tokio::task::yield_now().await;
        let closer = tokio::spawn({
            let streams = Arc::clone(&streams);
            async move { streams.input().close().await }
        });
        tokio::task::yield_now().await;
        assert!(streams.input().write(b"late").await.is_err());
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut std::fs::File::from(stdin), &mut all).unwrap();
            all
        });
        writer.await.unwrap().unwrap();
        closer.await.unwrap();
        assert!(!streams.input().is_open());
        assert!(read.join().unwrap() == data);
    }
}
