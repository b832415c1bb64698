//! An open instance of a library: requests handed in, answers reaped.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime_api::{Error, Result, ResultExt};
use runtime_task::convert;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::{Library, Options};
use crate::abi::{self, Opaque, Outcome, Request};

/// How many answers are taken at once.
pub(super) const BATCH: usize = 64;

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

    /// Watches a copy of the descriptor, which is the library's to close.
    pub(super) fn signal(&self) -> Result<AsyncFd<OwnedFd>> {
        let describe = || "watch a library";
        // SAFETY: an open instance, whose descriptor stays open for as long.
        let fd = unsafe { BorrowedFd::borrow_raw((self.library.table.fd)(self.pointer)) };
        let copy = fd.try_clone_to_owned().internal(describe)?;
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd does after
        // deregistering it.
        unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }.internal(describe)
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reap(&self) -> Vec<Outcome> {
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
    pub(super) unsafe fn take(&self, outcome: Outcome) -> Answer {
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
    pub(super) async fn call(
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
