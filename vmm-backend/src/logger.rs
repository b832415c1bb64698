//! Logging programs (containerd, "binary log URI"): `binary:///path?key=value`.
//!
//! ```text
//!   spawned ── closes descriptor 5 ──► ready ── end of output ──► ends by itself ──► reaped
//!      │ deadline                                                    │ deadline
//!      └────────────────────────► killed ◄──────────────────────────┘
//! ```
//!
//! The program reads standard output from descriptor 3 and error output from 4, says by closing 5
//! that it is ready, and finds the names of the container in its environment. It is started by
//! posix_spawn(3), since this code may be part of a daemon with many threads.
#![expect(unsafe_code, reason = "fcntl(2) answers descriptors as numbers")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, pipe2};
use runtime_api::{Error, ErrorKind, Result, ResultExt};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::child::Child;

/// How long a program may take to say that it is ready, and to end after the end of the output.
const DEADLINE: Duration = Duration::from_secs(10);
/// Above the descriptors that the program is given.
const FIRST_FREE: i32 = 10;

/// What a program is told of the process whose output it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) namespace: &'a str,
    /// The container, or the exec, as the reference runtime has it.
    pub(crate) id: &'a str,
}

/// A program that runs. Without [`finish`](Logger::finish) it is killed.
pub(crate) struct Logger {
    order: watch::Sender<Order>,
    ended: watch::Receiver<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    Finish,
}

/// The end of an output that a program takes.
pub(crate) struct LogPipe {
    writer: pipe::Sender,
    /// Open here too: a program that dies must not break the pipe, which would send SIGPIPE.
    _reader: OwnedFd,
    ended: watch::Receiver<bool>,
}

impl LogPipe {
    /// Writes as much as there is room for, once there is any. What a program that has ended would
    /// have taken is thrown away.
    pub(crate) async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        tokio::select! {
            count = tokio::io::AsyncWriteExt::write(&mut self.writer, data) => count,
            _ = self.ended.wait_for(|ended| *ended) => Ok(data.len()),
        }
    }
}

impl Logger {
    /// Starts the program of `uri` and waits until it is ready. Answers what takes standard output
    /// and error output.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such URI, `NotFound` for a missing program,
    /// `DeadlineExceeded` when it does not become ready; it is killed then.
    pub(crate) async fn start(uri: &str, names: Names<'_>) -> Result<(Self, [LogPipe; 2])> {
        let program = Program::parse(uri)?;
        let starting = || format!("start log program {}", program.path.display());
        let pair = || pipe2(OFlag::O_CLOEXEC).internal(starting);
        let (outputs, ready) = ([pair()?, pair()?], pair()?);
        let given = [&outputs[0].0, &outputs[1].0, &ready.1];
        let child = program.spawn(given, names).map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let kind = if missing { ErrorKind::NotFound } else { ErrorKind::FailedPrecondition };
            Error::new(kind, starting()).with_source(error)
        })?;
        drop(ready.1);
        let (order, orders) = watch::channel(Order::Run);
        let (end, ended) = watch::channel(false);
        tokio::spawn(follow(child, orders, end));
        let logger = Self { order, ended };
        let mut ready = pipe::Receiver::from_owned_fd(nonblocking(ready.0).internal(starting)?)
            .internal(starting)?;
        // To close it is to say so; a byte would do as well.
        if timeout(DEADLINE, ready.read(&mut [0])).await.is_err() {
            logger.kill().await;
            let message = format!("{}: it is not ready after {DEADLINE:?}", starting());
            return Err(Error::deadline_exceeded(message));
        }
        let ends = outputs.map(|(reader, writer)| {
            let writer = nonblocking(writer).and_then(pipe::Sender::from_owned_fd);
            let ended = logger.ended.clone();
            writer.map(|writer| LogPipe { writer, _reader: reader, ended }).internal(starting)
        });
        let [stdout, stderr] = ends;
        Ok((logger, [stdout?, stderr?]))
    }

    /// Waits until the program has taken the rest, which the caller has ended, or kills it after some
    /// time.
    pub(crate) async fn finish(mut self) {
        self.order.send_replace(Order::Finish);
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Kills it.
    pub(crate) async fn kill(self) {
        let Self { order, mut ended } = self;
        drop(order);
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// Waits for the end of a program, as it is told.
async fn follow(mut child: Child, mut orders: watch::Receiver<Order>, end: watch::Sender<bool>) {
    let too_long = async {
        if orders.wait_for(|order| *order == Order::Finish).await.is_ok() {
            tokio::time::sleep(DEADLINE).await;
            return "does not end";
        }
        "is not needed"
    };
    let why = tokio::select! {
        _ = child.exited() => None,
        why = too_long => Some(why),
    };
    if let Some(why) = why {
        log::warn!("log program {} {why}: it is killed", child.pid());
        child.kill();
        child.exited().await;
    }
    end.send_replace(true);
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

/// A program and its arguments.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    fn parse(uri: &str) -> Result<Self> {
        let bad = |what: &str| Error::invalid_argument(format!("log program {uri:?} {what}"));
        let rest = uri.strip_prefix("binary://").ok_or_else(|| bad("is no binary:// URI"))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let decode = |text: &str| decode(text).ok_or_else(|| bad("has a bad escape sequence"));
        let path = decode(path)?;
        if !Path::new(&path).is_absolute() {
            return Err(bad("is not an absolute path"));
        }
        let mut arguments = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            for word in [key, value] {
                arguments.push(decode(&word.replace('+', " "))?);
            }
        }
        Ok(Self { path: path.into(), arguments })
    }

    fn spawn(&self, given: [&OwnedFd; 3], names: Names<'_>) -> io::Result<Child> {
        // Where no descriptor of the program is put over one that is still to be put elsewhere.
        let copy = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST_FREE));
        let mut actions = PosixSpawnFileActions::init()?;
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
        let mut copies = Vec::new();
        let [stdout, stderr, ready] = given;
        for (fd, number) in [&null, &null, &null, stdout, stderr, ready].into_iter().zip(0..) {
            // SAFETY: the call has just made this descriptor and nobody else knows it.
            let high = unsafe { OwnedFd::from_raw_fd(copy(fd)?) };
            actions.add_dup2(high.as_raw_fd(), number)?;
            copies.push(high);
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::all())?;
        let path = CString::new(self.path.as_os_str().as_encoded_bytes())?;
        let mut words = vec![path.clone()];
        for word in &self.arguments {
            words.push(CString::new(word.as_str())?);
        }
        let environment = [("CONTAINER_ID", names.id), ("CONTAINER_NAMESPACE", names.namespace)]
            .map(|(name, value)| CString::new(format!("{name}={value}")));
        let [id, namespace] = environment;
        let pid = posix_spawn(path.as_c_str(), &actions, &attributes, &words, &[id?, namespace?])?;
        Child::watch(pid.as_raw().unsigned_abs())
    }
}

/// Undoes percent-encoding (RFC 3986).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let code = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(code).ok().filter(|code| *code != 0)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
