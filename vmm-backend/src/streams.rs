//! The streams of one process: between the endpoints on the host and the channel of the guest.
//!
//! Output is pulled: the next chunk is asked for when the last one has been written, so a reader that
//! stalls holds up its own process and nothing else. At most one chunk of each stream is in memory.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use guest_api::Stream;
use runtime_api::{Endpoint, Error, ErrorKind, ProcessRef, Result, ResultExt, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::guest::{Guest, Passed};
use crate::journal::Journal;
use crate::logger::{LogPipe, Logger, Names};

/// How long a reader may take none of the output before the exit of the process is announced
/// without waiting for it.
const EXIT_PATIENCE: Duration = Duration::from_millis(100);
/// How long a deletion waits for output that is still on its way.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the guest may take to tell that a stream is drained once its process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// What pipes are called by whoever keeps them open.
pub(crate) const PIPE_NAMES: [&str; 3] = ["stdin", "stdout", "stderr"];

/// How much input is taken from a pipe at once.
const INPUT_CHUNK: usize = 64 << 10;

/// The endpoints of a process, open, before it exists.
pub(crate) struct OpenStreams {
    stdin: Option<Input>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    logger: Option<Logger>,
}

struct Input {
    pipe: pipe::Receiver,
    /// Keeps the pipe from ending until the daemon says so (CloseIO): its clients come and go.
    writer: pipe::Sender,
}

enum Sink {
    Fifo(pipe::Sender),
    File(File),
    Logger(LogPipe),
}

impl OpenStreams {
    /// Opens the endpoints; for a logging program that is to start it and to wait until it is ready.
    ///
    /// # Errors
    /// `NotFound` and `InvalidArgument` naming the endpoint; those of [`Logger::start`].
    pub(crate) async fn open(stdio: &Stdio, names: Names<'_>) -> Result<Self> {
        let (stdin, stderr) = (input(&stdio.stdin)?, stderr(stdio));
        let (stdout, stderr, logger) = match &stdio.stdout {
            // One program takes both.
            Endpoint::Binary(uri) => {
                let (logger, [stdout, other]) = Logger::start(uri, names).await?;
                let stderr = match stderr {
                    Endpoint::Binary(_) => Some(Sink::Logger(other)),
                    stderr => sink(stderr)?,
                };
                (Some(Sink::Logger(stdout)), stderr, Some(logger))
            }
            stdout => (sink(stdout)?, sink(stderr)?, None),
        };
        Ok(Self { stdin, stdout, stderr, logger })
    }

    /// Opens the endpoints of a process that has run for a while. What is not there any more is for
    /// nobody.
    pub(crate) async fn reopen(stdio: &Stdio, names: Names<'_>) -> Self {
        let warn = |error: Error| log::warn!("{}", error.chain());
        let stdin = input(&stdio.stdin).map_err(warn).unwrap_or_default();
        let outputs = Stdio { stdin: Endpoint::Null, ..stdio.clone() };
        match Self::open(&outputs, names).await {
            Ok(outputs) => Self { stdin, ..outputs },
            // One of the two may be there yet.
            Err(_) => {
                let stdout = sink(&stdio.stdout).map_err(warn).unwrap_or_default();
                let stderr = sink(stderr(stdio)).map_err(warn).unwrap_or_default();
                Self { stdin, stdout, stderr, logger: None }
            }
        }
    }

    /// What the guest has to be told: a channel for each endpoint that there is.
    pub(crate) fn guest_stdio(&self, terminal: bool) -> Stdio {
        let channel = |open: bool| if open { Endpoint::Channel } else { Endpoint::Null };
        Stdio {
            stdin: channel(self.stdin.is_some()),
            stdout: channel(self.stdout.is_some()),
            stderr: channel(self.stderr.is_some()),
            terminal,
        }
    }

    /// The pipes among them, each with a name: what has to stay open where this process may be
    /// replaced by another one.
    ///
    /// Each is opened anew: who is sent a copy of a descriptor shares its flags, and a VMM makes what
    /// it receives blocking, so that a reader who stalls would stall the executor here.
    pub(crate) fn pipes(&self) -> std::io::Result<Vec<(&'static str, File)>> {
        let mut pipes = Vec::new();
        if let Some(input) = &self.stdin {
            pipes.push((PIPE_NAMES[0], opened_anew(&input.pipe, File::options().read(true))?));
        }
        for (name, sink) in [(PIPE_NAMES[1], &self.stdout), (PIPE_NAMES[2], &self.stderr)] {
            if let Some(Sink::Fifo(pipe)) = sink {
                pipes.push((name, opened_anew(pipe, File::options().read(true).write(true))?));
            }
        }
        Ok(pipes)
    }

    /// Starts to move bytes, from where `journal` says that an earlier run has stopped.
    pub(crate) fn run(
        self,
        guest: &Arc<Guest>,
        process: &ProcessRef,
        journal: Option<Journal>,
    ) -> Streams {
        let journal = journal.map(Arc::new);
        let output = |sink: Option<Sink>, stream| {
            sink.map(|sink| {
                let (guest, process) = (Arc::clone(guest), process.clone());
                Output::spawn(Source { guest, process, stream, journal: journal.clone() }, sink)
            })
        };
        let outputs = [
            output(self.stdout, Stream::STREAM_STDOUT),
            output(self.stderr, Stream::STREAM_STDERR),
        ];
        let (close, closed) = watch::channel(false);
        let input = self.stdin.map(|input| {
            tokio::spawn(pump_input(Arc::clone(guest), process.clone(), input, closed))
        });
        let outputs = outputs.into_iter().flatten().collect();
        Streams { outputs, input, close, logger: self.logger }
    }
}

/// A terminal has one output.
fn stderr(stdio: &Stdio) -> &Endpoint {
    if stdio.terminal { &Endpoint::Null } else { &stdio.stderr }
}

/// Another open file description of the same pipe. It does not wait: both ends are open already.
fn opened_anew(pipe: &impl AsRawFd, options: &OpenOptions) -> std::io::Result<File> {
    options.open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
}

fn input(endpoint: &Endpoint) -> Result<Option<Input>> {
    let open = |path: &Path| {
        let pipe = pipe::OpenOptions::new().open_receiver(path)?;
        let writer = pipe::OpenOptions::new().open_sender(path)?;
        Ok(Some(Input { pipe, writer }))
    };
    match endpoint {
        Endpoint::Null => Ok(None),
        Endpoint::Fifo(path) => open(path).map_err(|error| open_error(endpoint, error)),
        Endpoint::File(_) | Endpoint::Binary(_) | Endpoint::Channel => {
            Err(Error::invalid_argument(format!("{endpoint} cannot be a standard input")))
        }
    }
}

fn sink(endpoint: &Endpoint) -> Result<Option<Sink>> {
    match endpoint {
        Endpoint::Null => Ok(None),
        // Open for reading too: a daemon that goes away must not break the pipe.
        Endpoint::Fifo(path) => pipe::OpenOptions::new()
            .read_write(true)
            .open_sender(path)
            .map(|pipe| Some(Sink::Fifo(pipe)))
            .map_err(|error| open_error(endpoint, error)),
        Endpoint::File(path) => File::options()
            .append(true)
            .create(true)
            .open(path)
            .map(|file| Some(Sink::File(file)))
            .map_err(|error| open_error(endpoint, error)),
        Endpoint::Binary(_) => {
            let message = format!("log program {endpoint} for error output alone");
            Err(Error::invalid_argument(message))
        }
        Endpoint::Channel => Err(Error::invalid_argument("a channel ends inside a guest only")),
    }
}

fn open_error(endpoint: &Endpoint, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("open stream {endpoint}")).with_source(error)
}

/// The streams of a living process.
pub(crate) struct Streams {
    outputs: Vec<Output>,
    input: Option<JoinHandle<()>>,
    close: watch::Sender<bool>,
    logger: Option<Logger>,
}

impl Streams {
    /// Ends the standard input once what is queued has been delivered.
    pub(crate) fn close_input(&self) {
        self.close.send_replace(true);
    }

    /// Waits until all that the ended process wrote has been passed on, for as long as the readers
    /// take it.
    pub(crate) async fn flush_for_exit(&self) {
        for output in &self.outputs {
            output.drained(EXIT_PATIENCE).await;
        }
    }

    /// Waits for the rest of the output, at most 10 s, and ends everything.
    pub(crate) async fn finish(self) {
        if let Some(input) = self.input {
            input.abort();
        }
        for output in self.outputs {
            output.drained(DELETE_PATIENCE).await;
            output.end().await;
        }
        if let Some(logger) = self.logger {
            logger.finish().await;
        }
    }

    /// Ends everything at once.
    pub(crate) async fn abort(self) {
        if let Some(input) = self.input {
            input.abort();
        }
        for output in self.outputs {
            output.end().await;
        }
        if let Some(logger) = self.logger {
            logger.kill().await;
        }
    }
}

/// How far one output stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes that have been passed on.
    written: u64,
    /// Whether the pump waits for the reader, not for the guest.
    blocked: bool,
    /// Whether all that the process itself wrote has been passed on.
    drained: bool,
}

struct Output {
    task: JoinHandle<()>,
    progress: watch::Receiver<Progress>,
}

/// Where output comes from.
struct Source {
    guest: Arc<Guest>,
    process: ProcessRef,
    stream: Stream,
    journal: Option<Arc<Journal>>,
}

impl Output {
    fn spawn(source: Source, sink: Sink) -> Self {
        let (report, progress) = watch::channel(Progress::default());
        let task = tokio::spawn(async move {
            if let Err(error) = source.pump(sink, &report).await {
                log::warn!("{:?} of {}: {}", source.stream, source.process, error.chain());
            }
            report.send_modify(|progress| progress.drained = true);
        });
        Self { task, progress }
    }

    /// Lets go of the sink.
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until the stream is drained, or its reader takes nothing for as long as `patience`.
    async fn drained(&self, patience: Duration) {
        let mut progress = self.progress.clone();
        let all = async {
            loop {
                let seen = *progress.borrow_and_update();
                if seen.drained {
                    return;
                }
                let patience = if seen.blocked { patience } else { DRAIN_DEADLINE };
                match timeout(patience, progress.changed()).await {
                    Ok(Ok(())) => {}
                    // Nothing moved in time, or the pump is gone.
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        };
        all.await;
    }
}

impl Source {
    async fn pump(&self, mut sink: Sink, report: &watch::Sender<Progress>) -> Result<()> {
        let offset = self.journal.as_ref().map_or(0, |journal| journal.passed_on(self.stream));
        let mut passed = Passed { offset, drained: false };
        loop {
            let chunk = self.guest.read_output(&self.process, self.stream, passed).await?;
            passed.drained |= chunk.drained;
            if chunk.drained || chunk.eof {
                report.send_modify(|progress| progress.drained = true);
            }
            if chunk.eof {
                return Ok(());
            }
            let mut rest = chunk.data.as_slice();
            while !rest.is_empty() {
                let count = sink.write(rest, report).await?;
                rest = &rest[count..];
                passed.offset += count as u64;
                if let Some(journal) = &self.journal {
                    journal.note(self.stream, passed.offset);
                }
            }
        }
    }
}

impl Sink {
    /// Writes as much as there is room for, once there is any.
    async fn write(&mut self, data: &[u8], report: &watch::Sender<Progress>) -> Result<usize> {
        match self {
            Self::File(file) => {
                file.write_all(data).internal(|| "append to the log file")?;
                Ok(data.len())
            }
            Self::Fifo(pipe) => {
                blocking(report, pipe.write(data)).await.internal(|| "write to the pipe")
            }
            Self::Logger(pipe) => {
                let written = blocking(report, pipe.write(data)).await;
                written.internal(|| "write to the log program")
            }
        }
    }
}

/// Reports that a reader is waited for, and what it has taken.
async fn blocking(
    report: &watch::Sender<Progress>,
    write: impl Future<Output = std::io::Result<usize>>,
) -> std::io::Result<usize> {
    report.send_if_modified(|progress| !std::mem::replace(&mut progress.blocked, true));
    let count = write.await?;
    report.send_modify(|progress| {
        progress.written += count as u64;
        progress.blocked = false;
    });
    Ok(count)
}

async fn pump_input(
    guest: Arc<Guest>,
    process: ProcessRef,
    input: Input,
    mut closed: watch::Receiver<bool>,
) {
    let Input { mut pipe, writer } = input;
    let mut writer = Some(writer);
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        let count = tokio::select! {
            read = pipe.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            },
            // Without our own writer the pipe ends when the daemon's client has closed it.
            _ = closed.wait_for(|closed| *closed), if writer.is_some() => {
                writer = None;
                continue;
            }
        };
        if let Err(error) = guest.write_input(&process, buffer[..count].to_vec()).await {
            // The process has closed its input or has ended: the rest is for nobody.
            log::debug!("input of {process}: {}", error.chain());
            break;
        }
    }
    if let Err(error) = guest.tasks().close_io(&process).await {
        log::debug!("end of input of {process}: {}", error.chain());
    }
}
