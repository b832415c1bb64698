//! A client for QEMU's control protocol: JSON lines, answers matched to commands by id, events in
//! between.
//!
//! The `qapi` crate would bring types for some hundred commands, of which seven are used here, at
//! the price of a minute of compile time.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::version::QemuVersion;

/// Longest line that is accepted; QEMU's longest answer to a command used here has a few hundred
/// bytes.
const LINE_LIMIT: u64 = 1 << 20;

/// QEMU answers from its main loop, which a device emulation can hold up, but not for seconds.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// The events that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The guest opened or closed its side of a virtio-serial port.
    PortChanged { id: String, open: bool },
    /// The processors have begun to run, or go on.
    Running,
    /// pvpanic rang.
    GuestPanicked,
    /// The machine ends; the cause in QEMU's own words.
    Shutdown { reason: String },
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("it answered: {0}")]
    Refused(String),
    #[error("it did not answer within {COMMAND_DEADLINE:?}")]
    Timeout,
    #[error("it is gone")]
    Closed,
}

type Reply = oneshot::Sender<Result<Value, QmpError>>;
type Pending = Arc<Mutex<HashMap<u64, Reply>>>;

/// One line to QEMU, and the descriptor that goes with it.
struct Command {
    line: Vec<u8>,
    fd: Option<OwnedFd>,
}

/// Sends commands; cheap to clone.
#[derive(Clone)]
pub(super) struct Qmp {
    commands: mpsc::Sender<Command>,
    pending: Pending,
    next_id: Arc<AtomicU64>,
}

/// The connection's IO: somebody has to drive [`Connection::run`].
pub(super) struct Connection {
    lines: Lines,
    writer: OwnedWriteHalf,
    commands: mpsc::Receiver<Command>,
    pending: Pending,
}

struct Lines {
    reader: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

/// One line from QEMU.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    id: Option<u64>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: QemuVersion,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// Shakes hands over a fresh connection. The caller sets the deadline: how long QEMU needs before
/// it greets depends on the host.
pub(super) async fn handshake(stream: UnixStream) -> io::Result<(Qmp, Connection, QemuVersion)> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines { reader: BufReader::new(reader), line: Vec::new() };
    let greeting = lines.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let greeting = greeting.greeting.ok_or(io::ErrorKind::InvalidData)?;
    writer.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await?;
    // Events can already come before the answer, but none that says more than the end of the
    // connection does: the guest has not run long enough to open its port.
    while lines.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?.result.is_none() {}

    let (sender, commands) = mpsc::channel(8);
    let pending = Pending::default();
    let qmp = Qmp { commands: sender, pending: pending.clone(), next_id: Arc::default() };
    let connection = Connection { lines, writer, commands, pending };
    Ok((qmp, connection, greeting.version.qemu))
}

impl Qmp {
    /// Executes a command.
    pub(super) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.send(command, arguments, None).await
    }

    /// Gives QEMU a descriptor, which commands then find by `name`.
    pub(super) async fn give(&self, name: &str, fd: OwnedFd) -> Result<(), QmpError> {
        self.send("getfd", json!({ "fdname": name }), Some(fd)).await.map(drop)
    }

    async fn send(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<OwnedFd>,
    ) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        let _forget = Forget { pending: &self.pending, id };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let exchange = async {
            let command = Command { line: line.into_bytes(), fd };
            self.commands.send(command).await.map_err(|_| QmpError::Closed)?;
            receiver.await.map_err(|_| QmpError::Closed)?
        };
        tokio::time::timeout(COMMAND_DEADLINE, exchange).await.unwrap_or(Err(QmpError::Timeout))
    }
}

/// Takes the entry of an abandoned command away.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.pending).remove(&self.id);
    }
}

impl Connection {
    /// Moves lines until QEMU closes the connection or every [`Qmp`] has been dropped.
    pub(super) async fn run(self, on_event: impl FnMut(Event)) {
        let Self { lines, writer, commands, pending } = self;
        let end = tokio::select! {
            end = read(lines, &pending, on_event) => end,
            end = write(writer, commands) => end,
        };
        if let Err(error) = end {
            log::warn!("the control connection to QEMU ended early: {error}");
        }
        lock(&pending).clear();
    }
}

async fn read(
    mut lines: Lines,
    pending: &Pending,
    mut on_event: impl FnMut(Event),
) -> io::Result<()> {
    while let Some(message) = lines.next().await? {
        if let Some(name) = &message.event {
            if let Some(event) = event(name, &message.data) {
                on_event(event);
            }
        } else if let Some(reply) = message.id.and_then(|id| lock(pending).remove(&id)) {
            let result = match message.error {
                Some(refusal) => Err(QmpError::Refused(refusal.desc)),
                None => Ok(message.result.unwrap_or(Value::Null)),
            };
            // The caller may have given up in the meantime.
            let _ = reply.send(result);
        }
    }
    Ok(())
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut commands: mpsc::Receiver<Command>,
) -> io::Result<()> {
    while let Some(Command { line, fd }) = commands.recv().await {
        let sent = match &fd {
            Some(fd) => send_with(writer.as_ref(), &line, fd).await?,
            None => 0,
        };
        writer.write_all(&line[sent..]).await?;
    }
    Ok(())
}

/// Sends as much as fits together with a descriptor (SCM_RIGHTS in unix(7)).
async fn send_with(stream: &UnixStream, bytes: &[u8], fd: &OwnedFd) -> io::Result<usize> {
    let fds = [fd.as_fd()];
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, send).await
}

impl Lines {
    async fn next(&mut self) -> io::Result<Option<Message>> {
        self.line.clear();
        (&mut self.reader).take(LINE_LIMIT).read_until(b'\n', &mut self.line).await?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            // A killed QEMU can leave half a line.
            return if self.line.len() as u64 == LINE_LIMIT {
                Err(io::ErrorKind::InvalidData.into())
            } else {
                Ok(None)
            };
        }
        serde_json::from_slice(&self.line).map(Some).map_err(io::Error::from)
    }
}

fn event(name: &str, data: &Value) -> Option<Event> {
    let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
    match name {
        "VSERPORT_CHANGE" => {
            Some(Event::PortChanged { id: text("id"), open: data["open"].as_bool()? })
        }
        "RESUME" => Some(Event::Running),
        "GUEST_PANICKED" => Some(Event::GuestPanicked),
        "SHUTDOWN" => Some(Event::Shutdown { reason: text("reason") }),
        _ => None,
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, HashMap<u64, Reply>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "#,
        r#""capabilities": ["oob"]}}"#,
        "\n"
    );

    /// Plays QEMU: greets, then answers each line it reads with the next of `answers`.
    async fn play(stream: UnixStream, answers: &[&str]) {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        writer.write_all(GREETING.as_bytes()).await.unwrap();
        for answer in answers {
            reader.read_line(&mut String::new()).await.unwrap();
            writer.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    async fn against(answers: &[&str]) -> (Result<Value, QmpError>, Vec<Event>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = async {
            let (qmp, connection, version) = handshake(ours).await.unwrap();
            assert_eq!(version, QemuVersion { major: 7, minor: 2, micro: 22 });
            let mut events = Vec::new();
            let command = async move { qmp.execute("stop", json!({})).await };
            let (result, ()) = tokio::join!(command, connection.run(|event| events.push(event)));
            (result, events)
        };
        tokio::join!(client, play(theirs, answers)).0
    }

    #[tokio::test]
    async fn an_answer_finds_its_command_past_events() {
        let (result, events) = against(&[
            "{\"return\": {}}\n",
            concat!(
                r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#,
                "\n",
                r#"{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent"}}"#,
                "\n",
                r#"{"event": "GUEST_PANICKED", "data": {"action": "poweroff"}}"#,
                "\n",
                r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}"#,
                "\n",
                r#"{"return": {}, "id": 0}"#,
                "\n",
            ),
        ])
        .await;
        assert_eq!(result.unwrap(), json!({}));
        assert_eq!(
            events,
            [
                Event::PortChanged { id: "agent".into(), open: true },
                Event::GuestPanicked,
                Event::Shutdown { reason: "guest-panic".into() },
            ]
        );
    }

    #[tokio::test]
    async fn a_refusal_carries_qemus_words() {
        let refusal = "{\"id\": 0, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n";
        let (result, _) = against(&["{\"return\": {}}\n", refusal]).await;
        assert_eq!(result.unwrap_err().to_string(), "it answered: no");
    }

    #[tokio::test]
    async fn a_command_to_a_dead_qemu_fails_at_once() {
        let (result, _) = against(&["{\"return\": {}}\n", "{\"retu"]).await;
        assert!(matches!(result, Err(QmpError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_qemu_meets_the_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (client, mut server) = tokio::join!(handshake(ours), async {
            let mut server = theirs;
            server.write_all(GREETING.as_bytes()).await.unwrap();
            server.write_all(b"{\"return\": {}}\n").await.unwrap();
            server
        });
        let (qmp, connection, _) = client.unwrap();
        let drive = tokio::spawn(connection.run(|_| {}));
        assert!(matches!(qmp.execute("stop", json!({})).await, Err(QmpError::Timeout)));
        assert!(lock(&qmp.pending).is_empty());
        drop(qmp);
        drive.await.unwrap();
        server.shutdown().await.unwrap();
    }
}
