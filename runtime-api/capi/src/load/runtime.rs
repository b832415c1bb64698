//! [`LibraryRuntime`]: the trait over a table.
//!
//! ```text
//!   call ── submit ──► done, or pending[tag] ◄── reap ── one task that waits for the descriptor
//!    └ dropped: cancel
//! ```

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Error, Event, EventStream,
    Exec, ExitStatus, Handle, Key, KillScope, Pid, ProcessInfo, ProcessRef, ProcessState, Result,
    ResultExt, Runtime, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};
use runtime_task::{Method, TaskClient, Transport, convert, event_of, messages};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::{Library, Options};
use crate::abi::{self, ATTACH, DIAL, Opaque, Outcome, Request, TOPICS};

/// How long a call may take; creations in a cold VM take longest.
const DEADLINE: Duration = Duration::from_secs(120);

/// How many answers are taken at once.
const BATCH: usize = 64;

/// What every library of this version can do. What it cannot, it answers `Unimplemented`.
const CAPABILITIES: Capabilities = Capabilities {
    exec: true,
    terminal: true,
    pause: true,
    update: true,
    stats: true,
    sandbox: false,
    attach: true,
    dial: true,
    checkpoint: false,
};

/// A runtime behind a table.
pub(super) struct LibraryRuntime {
    instance: Arc<Instance>,
    tasks: TaskClient<Calls>,
    events: Mutex<Option<mpsc::UnboundedReceiver<Event>>>,
    reaper: tokio::task::JoinHandle<()>,
}

/// An open instance, without a reaper of its own. It is closed when nobody uses it any more.
pub struct Instance {
    library: Library,
    pointer: *mut Opaque,
    /// Outlives the instance, which holds a pointer to it.
    _heard: Box<Heard>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    last_tag: AtomicU64,
}

// SAFETY: the functions of a table may be called from any thread (vmrt.h).
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// What a request is answered with; see `vmrt_result`.
#[derive(Debug)]
pub struct Answer {
    /// What finds the container faster from now on; 0 for nothing.
    pub key: u64,
    /// The number of a gRPC status.
    pub code: i32,
    /// The socket of a Dial.
    pub fd: Option<OwnedFd>,
    /// The response, or what is wrong.
    pub data: Vec<u8>,
}

impl LibraryRuntime {
    pub(super) fn open(library: Library, options: &Options) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let instance = Arc::new(Instance::open(library, options)?);
        let signal = watch(&instance)?;
        let reaper = tokio::spawn(reap(Arc::downgrade(&instance), signal, sender));
        let tasks = TaskClient::new(Calls(Arc::clone(&instance)), CAPABILITIES, DEADLINE);
        Ok(Self { instance, tasks, events: Mutex::new(Some(events)), reaper })
    }
}

impl Drop for LibraryRuntime {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

/// Watches a copy of the descriptor of an instance, which is the library's to close.
fn watch(instance: &Instance) -> Result<AsyncFd<OwnedFd>> {
    let describe = || "watch a library";
    // SAFETY: an open instance, whose descriptor stays open for as long.
    let fd = unsafe { BorrowedFd::borrow_raw((instance.library.table.fd)(instance.pointer)) };
    let copy = fd.try_clone_to_owned().internal(describe)?;
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd does after
    // deregistering it.
    unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }.internal(describe)
}

async fn reap(
    instance: std::sync::Weak<Instance>,
    signal: AsyncFd<OwnedFd>,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Ok(mut ready) = signal.readable().await {
        let Some(instance) = instance.upgrade() else { return };
        let taken = instance.reap();
        if taken.len() < BATCH {
            ready.clear_ready();
        }
        for outcome in taken {
            // SAFETY: it has just been reaped, and is used once.
            let (tag, event, answer) =
                (outcome.tag, outcome.event, unsafe { instance.take(outcome) });
            if tag == 0 {
                match event_of(topic_of(event), &answer.data) {
                    // Nobody is owed events that nobody takes.
                    Ok(event) => drop(events.send(event)),
                    Err(error) => log::error!("an event is lost: {}", error.chain()),
                }
            } else if let Some(waiting) = instance.pending().remove(&tag) {
                let _ = waiting.send(answer);
            }
        }
    }
}

/// The topic of an event; of a number that is none, no topic.
fn topic_of(number: u32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| TOPICS.get(number)).copied().unwrap_or_default()
}

impl Instance {
    /// Opens an instance.
    ///
    /// # Errors
    /// What the library answers, with the last error that it has logged.
    pub fn open(library: Library, options: &Options) -> Result<Self> {
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|error| Error::invalid_argument("a path with NUL").with_source(error))
        };
        let config = options.config.as_deref().map(text).transpose()?;
        let state_dir = options.state_dir.as_deref().map(text).transpose()?;
        let pointer_of =
            |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let heard = Box::new(Heard::default());
        let given = abi::Options {
            size: size_of::<abi::Options>(),
            config: pointer_of(&config),
            state_dir: pointer_of(&state_dir),
            workers: options.workers,
            log: Some(log_line),
            log_user: ptr::from_ref(&*heard).cast_mut().cast(),
        };
        let mut pointer = ptr::null_mut();
        // SAFETY: options of this version, and a place for the instance.
        let code = unsafe { (library.table.open)(&given, &mut pointer) };
        if code != 0 {
            let message = format!("open a runtime of a library: {}", heard.last_error());
            return Err(Error::new(convert::kind_of_number(code), message));
        }
        let (pending, last_tag) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { library, pointer, _heard: heard, pending, last_tag })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(BATCH);
        // SAFETY: an open instance, and room for as many as are asked for; that many are initialised.
        unsafe {
            let count = (self.library.table.reap)(self.pointer, outcomes.as_mut_ptr(), BATCH);
            outcomes.set_len(count);
        }
        outcomes
    }

    /// # Safety
    /// The library gave `outcome`, and nobody has taken anything out of it.
    unsafe fn take(&self, outcome: Outcome) -> Answer {
        let mut data = Vec::new();
        if !outcome.data.is_null() {
            // SAFETY: the library's buffer of this length, given back right after it was copied.
            unsafe {
                data.extend_from_slice(std::slice::from_raw_parts(outcome.data, outcome.len));
                (self.library.table.free)(outcome.data, outcome.len);
            }
        }
        // SAFETY: a descriptor in an outcome is its receiver's.
        let fd = (outcome.fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(outcome.fd) });
        Answer { key: outcome.key, code: outcome.code, fd, data }
    }

    /// Asks, and waits for the answer. Who stops waiting gives the request up.
    async fn call(
        self: &Arc<Self>,
        method: u32,
        payload: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Answer> {
        let tag = self.last_tag.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        // Before it is submitted: another thread may reap it at once.
        self.pending().insert(tag, sender);
        let guard = Waiting { instance: Arc::clone(self), tag };
        let nanoseconds = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let answer = match self.submit(tag, method, payload, deadline.map_or(0, nanoseconds))? {
            Some(answer) => {
                self.pending().remove(&tag);
                answer
            }
            None => receiver.await.map_err(|_| Error::unavailable("the library was closed"))?,
        };
        drop(guard);
        if answer.code == 0 {
            return Ok(answer);
        }
        let message = String::from_utf8_lossy(&answer.data).into_owned();
        Err(Error::new(convert::kind_of_number(answer.code), message))
    }

    /// Hands a request in. `None`: the answer will have to be reaped.
    ///
    /// # Errors
    /// `Internal` when the library does not take it.
    pub fn submit(
        &self,
        tag: u64,
        method: u32,
        payload: &[u8],
        timeout_ns: u64,
    ) -> Result<Option<Answer>> {
        let (data, len) = (payload.as_ptr(), payload.len());
        let request = Request { tag, key: 0, method, reserved: 0, timeout_ns, data, len };
        let mut outcome = std::mem::MaybeUninit::uninit();
        // SAFETY: an open instance, a request whose data outlives the call, and a place for an outcome.
        let done =
            unsafe { (self.library.table.submit)(self.pointer, &request, outcome.as_mut_ptr()) };
        match done {
            0 => Ok(None),
            // SAFETY: it was answered at once, so that the outcome is there.
            1 => Ok(Some(unsafe { self.take(outcome.assume_init()) })),
            error => Err(Error::internal(format!("submit answers {error}"))),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: an open instance that nobody uses any more.
        unsafe { (self.library.table.close)(self.pointer) };
    }
}

/// A call that somebody waits for.
struct Waiting {
    instance: Arc<Instance>,
    tag: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.instance.pending().remove(&self.tag).is_some() {
            let Instance { library, pointer, .. } = &*self.instance;
            // SAFETY: an open instance. That the request has been answered meanwhile is no error, and
            // one that was answered inline was never pending there.
            unsafe { (library.table.cancel)(*pointer, self.tag) };
        }
    }
}

/// The last error that a library has logged: why it does not open is told nowhere else.
#[derive(Default)]
struct Heard(Mutex<String>);

impl Heard {
    fn note(&self, line: &str) {
        line.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn last_error(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Passes lines on to the log of this program.
extern "C" fn log_line(user: *mut c_void, level: c_int, line: *const c_char, len: usize) {
    // SAFETY: the library's line of this length, for the time of this call.
    let line = unsafe { std::slice::from_raw_parts(line.cast::<u8>(), len) };
    let line = String::from_utf8_lossy(line);
    // SAFETY: what was handed to `open` by whoever owns it until after `close`.
    if let Some(heard) = unsafe { user.cast::<Heard>().as_ref() }.filter(|_| level == 1) {
        heard.note(&line);
    }
    let level = match level {
        1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        4 => log::Level::Debug,
        _ => log::Level::Trace,
    };
    log::log!(target: "vmrt", level, "{line}");
}

/// Carries Task messages over the table.
struct Calls(Arc<Instance>);

#[async_trait]
impl Transport for Calls {
    async fn call(
        &self,
        method: Method,
        payload: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>> {
        Ok(self.0.call(method as u32, &payload, deadline).await?.data)
    }
}

/// Events as a stream of the trait.
struct Events(mpsc::UnboundedReceiver<Event>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

#[async_trait]
impl Runtime for LibraryRuntime {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let container = request.id.clone();
        let request = convert::encode(&convert::create_request(request)?)?;
        let answer = self.instance.call(Method::Create as u32, &request, Some(DEADLINE)).await?;
        let response: messages::CreateTaskResponse = convert::decode(&answer.data)?;
        let (pid, token) = convert::created(&response);
        Ok(Created { handle: Handle { container, key: Key::new(answer.key), token }, pid })
    }

    async fn attach(&self, token: &Token) -> Result<Handle> {
        let answer = self.instance.call(ATTACH, &token.0, Some(DEADLINE)).await?;
        let response: messages::StateResponse = convert::decode(&answer.data)?;
        let container = ContainerId::parse(response.id)?;
        Ok(Handle { container, key: Key::new(answer.key), token: token.clone() })
    }

    async fn dial(&self, sandbox: &SandboxId, port: u16) -> Result<OwnedFd> {
        let request = convert::dial_request(sandbox, port)?;
        let answer = self.instance.call(DIAL, &request, Some(DEADLINE)).await?;
        answer.fd.ok_or_else(|| Error::internal("the library has answered Dial without a socket"))
    }

    fn events(&self) -> Result<EventStream> {
        let taken = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(events) => Ok(Box::pin(Events(events))),
            None => Err(Error::failed_precondition("the events have been taken before")),
        }
    }

    // The rest is Task's.

    async fn create_sandbox(&self, request: CreateSandbox) -> Result<Pid> {
        self.tasks.create_sandbox(request).await
    }

    async fn sandbox_status(&self, sandbox: &SandboxId) -> Result<SandboxStatus> {
        self.tasks.sandbox_status(sandbox).await
    }

    async fn delete_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        self.tasks.delete_sandbox(sandbox).await
    }

    async fn start(&self, process: &ProcessRef) -> Result<Pid> {
        self.tasks.start(process).await
    }

    async fn exec(&self, request: Exec) -> Result<()> {
        self.tasks.exec(request).await
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        self.tasks.state(process).await
    }

    async fn kill(&self, process: &ProcessRef, signal: Signal, scope: KillScope) -> Result<()> {
        self.tasks.kill(process, signal, scope).await
    }

    async fn wait(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.tasks.wait(process).await
    }

    async fn delete(&self, process: &ProcessRef) -> Result<ExitStatus> {
        self.tasks.delete(process).await
    }

    async fn pause(&self, container: &ContainerId) -> Result<()> {
        self.tasks.pause(container).await
    }

    async fn resume(&self, container: &ContainerId) -> Result<()> {
        self.tasks.resume(container).await
    }

    async fn update(&self, request: Update) -> Result<()> {
        self.tasks.update(request).await
    }

    async fn stats(&self, container: &ContainerId) -> Result<Stats> {
        self.tasks.stats(container).await
    }

    async fn pids(&self, container: &ContainerId) -> Result<Vec<ProcessInfo>> {
        self.tasks.pids(container).await
    }

    async fn resize_pty(&self, process: &ProcessRef, size: WindowSize) -> Result<()> {
        self.tasks.resize_pty(process, size).await
    }

    async fn close_io(&self, process: &ProcessRef) -> Result<()> {
        self.tasks.close_io(process).await
    }

    async fn checkpoint(&self, container: &ContainerId, directory: &Path) -> Result<()> {
        self.tasks.checkpoint(container, directory).await
    }
}
