//! The fifos of a process, as a daemon makes and reads them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime_api::{Endpoint, Stdio};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long output may take to end once its process has ended.
const END: Duration = Duration::from_secs(20);

/// Makes a fifo and opens it in a way that lets the ends come and go.
fn fifo(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

/// One stream of output, read as it comes, unless it is held.
pub(crate) struct Output {
    /// Keeps the stream from ending before its process has begun.
    keeper: Option<File>,
    gate: Arc<Notify>,
    seen: Arc<Mutex<Vec<u8>>>,
    reading: Option<JoinHandle<()>>,
}

impl Output {
    fn open(path: &Path, held: bool) -> Self {
        let keeper = Some(fifo(path));
        let mut receiver = pipe::OpenOptions::new().open_receiver(path).unwrap();
        let (gate, seen) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
        if !held {
            gate.notify_one();
        }
        let (opens, into) = (Arc::clone(&gate), Arc::clone(&seen));
        let reading = tokio::spawn(async move {
            opens.notified().await;
            let mut block = vec![0; 1 << 16];
            while let Ok(length @ 1..) = receiver.read(&mut block).await {
                into.lock().unwrap().extend_from_slice(&block[..length]);
            }
        });
        Self { keeper, gate, seen, reading: Some(reading) }
    }

    /// Begins to read a stream that was held.
    pub(crate) fn release(&self) {
        self.gate.notify_one();
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until `text` has come.
    pub(crate) async fn until(&self, text: &str) {
        let seen = || String::from_utf8_lossy(&self.so_far()).into_owned();
        for _ in 0..1500 {
            if seen().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{text:?} has not come, but {:?}", seen());
    }

    /// Everything, when the process has ended.
    pub(crate) async fn all(&mut self) -> Vec<u8> {
        drop(self.keeper.take());
        if let Some(reading) = self.reading.take() {
            let ended = tokio::time::timeout(END, reading).await;
            let length = self.so_far().len();
            assert!(
                ended.is_ok(),
                "output of {length} bytes has not ended {END:?} after its process"
            );
        }
        self.so_far()
    }
}

/// The other end of an input.
pub(crate) struct Input {
    _keeper: File,
    sender: pipe::Sender,
}

impl Input {
    fn open(path: &Path) -> Self {
        let keeper = fifo(path);
        Self { _keeper: keeper, sender: pipe::OpenOptions::new().open_sender(path).unwrap() }
    }

    pub(crate) async fn write(&mut self, data: &[u8]) {
        let written = tokio::time::timeout(END * 2, self.sender.write_all(data)).await;
        written.expect("nobody reads the input").unwrap();
    }
}

/// Which streams a process gets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) input: bool,
    pub(crate) terminal: bool,
    /// Whether nobody reads standard output until it is released.
    pub(crate) held: bool,
}

/// The streams of one process.
pub(crate) struct Streams {
    pub(crate) input: Option<Input>,
    pub(crate) out: Output,
    pub(crate) err: Option<Output>,
}

impl Streams {
    /// Makes them in `directory`, which has none for `name` yet.
    pub(crate) fn open(directory: &Path, name: &str, wanted: Wanted) -> (Self, Stdio) {
        let at = |stream: &str| directory.join(format!("{name}.{stream}"));
        let input = wanted.input.then(|| Input::open(&at("in")));
        let out = Output::open(&at("out"), wanted.held);
        let err = (!wanted.terminal).then(|| Output::open(&at("err"), false));
        let endpoint = |there: bool, stream: &str| match there {
            true => Endpoint::Fifo(at(stream)),
            false => Endpoint::Null,
        };
        let stdio = Stdio {
            stdin: endpoint(input.is_some(), "in"),
            stdout: endpoint(true, "out"),
            stderr: endpoint(err.is_some(), "err"),
            terminal: wanted.terminal,
        };
        (Self { input, out, err }, stdio)
    }
}
