//! The library's side of the table.
//!
//! ```text
//!   submit ── polled once ──► done: answered inline
//!                  │
//!                  └► spawned ──► queue ──► reap        cancel: the answer is CANCELLED, the work goes on
//! ```
#![expect(unsafe_code, reason = "the functions of a C table take pointers")]

mod instance;
mod log;
mod queue;

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use runtime_api::{Error, Result, Runtime};
use runtime_task::convert::code_of;

use crate::abi::{Api, MAJOR, MINOR, Opaque, Options, Outcome, Request};
use instance::{Call, Instance};
use queue::Completion;

/// The version of a library, NUL-terminated.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version without NUL"),
    };

/// Where sandboxes live unless the daemon says otherwise.
const STATE_DIRECTORY: &str = "/run/vmrt/library";

const DEFAULT_WORKERS: u32 = 2;
const MAX_WORKERS: u32 = 256;

/// What a library is made of.
pub trait Library: 'static {
    /// Opens the runtime behind one instance, inside the executor that will serve it.
    ///
    /// # Errors
    /// What keeps the runtime from opening.
    fn open(settings: Settings) -> Result<Arc<dyn Runtime>>;
}

/// What the daemon has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The configuration file; `None` for the default one.
    pub config: Option<PathBuf>,
    /// Where the sandboxes live.
    pub state_dir: PathBuf,
}

// SAFETY: the only pointer in a table is that of a constant.
unsafe impl Sync for Api {}

/// The table of `L`.
#[must_use]
pub const fn table<L: Library>() -> Api {
    Api {
        major: MAJOR,
        minor: MINOR,
        size: size_of::<Api>(),
        version: VERSION.as_ptr(),
        open: Functions::<L>::open,
        fd: Functions::<L>::fd,
        submit: Functions::<L>::submit,
        reap: Functions::<L>::reap,
        cancel: Functions::<L>::cancel,
        free: Functions::<L>::free,
        close: Functions::<L>::close,
    }
}

/// What `vmrt_get_api` answers: the table if it is of that major version, else null.
#[must_use]
pub fn of_version(table: &'static Api, major: u32) -> *const Api {
    if major == table.major { table } else { ptr::null() }
}

/// The functions of the table. Where they take an instance, it is one that `open` gave and `close`
/// has not taken: that is the caller's part of the contract.
struct Functions<L>(PhantomData<L>);

impl<L: Library> Functions<L> {
    unsafe extern "C" fn open(options: *const Options, instance: *mut *mut Opaque) -> c_int {
        if instance.is_null() {
            return status(&Error::invalid_argument("open without a place for the instance"));
        }
        // SAFETY: not null, so the caller's pointer to a pointer.
        unsafe { *instance = ptr::null_mut() };
        // SAFETY: the caller's options, or null.
        let options = unsafe { given(options) };
        // Until the end of this function, so that a failure is told.
        let callback = options.as_ref().ok().and_then(log::Callback::of);
        let sink = Arc::new(log::Sink::install(callback));
        let opened = contained(|| {
            // SAFETY: the strings of the caller's options are NUL-terminated, or null.
            let (settings, workers) = unsafe { settings(&options?) }?;
            Instance::open::<L>(settings, workers, Arc::clone(&sink))
        });
        match opened {
            Ok(opened) => {
                // SAFETY: as above.
                unsafe { *instance = Box::into_raw(Box::new(opened)).cast() };
                0
            }
            Err(error) => status(&error),
        }
    }

    unsafe extern "C" fn fd(instance: *mut Opaque) -> c_int {
        // SAFETY: an open instance, or null.
        match unsafe { Instance::at(instance) } {
            Some(instance) => instance.fd(),
            None => -libc::EINVAL,
        }
    }

    unsafe extern "C" fn submit(
        instance: *mut Opaque,
        request: *const Request,
        outcome: *mut Outcome,
    ) -> c_int {
        // SAFETY: an open instance and the caller's structs, or null.
        let given = unsafe { (Instance::at(instance), request.as_ref(), outcome.as_mut()) };
        let (Some(instance), Some(request), Some(outcome)) = given else { return -libc::EINVAL };
        if request.data.is_null() && request.len > 0 {
            return -libc::EINVAL;
        }
        let data = match request.len {
            0 => &[][..],
            // SAFETY: the caller's buffer of this length, borrowed for this call.
            len => unsafe { std::slice::from_raw_parts(request.data, len) },
        };
        let call = Call {
            tag: request.tag,
            key: request.key,
            method: request.method,
            timeout_ns: request.timeout_ns,
            payload: data.to_vec(),
        };
        let done = contained(|| Ok(instance.submit(call)));
        match done
            .unwrap_or_else(|error| Some(Completion::failed(request.tag, request.key, &error)))
        {
            Some(completion) => {
                *outcome = completion.into_outcome();
                1
            }
            None => 0,
        }
    }

    unsafe extern "C" fn reap(instance: *mut Opaque, outcomes: *mut Outcome, max: usize) -> usize {
        // SAFETY: an open instance, or null.
        let Some(instance) = (unsafe { Instance::at(instance) }) else { return 0 };
        if outcomes.is_null() {
            return 0;
        }
        let taken = contained(|| Ok(instance.reap(max))).unwrap_or_default();
        let count = taken.len();
        for (index, completion) in taken.into_iter().enumerate() {
            // SAFETY: the caller's array of `max` elements, of which no more than that are taken.
            unsafe { outcomes.add(index).write(completion.into_outcome()) };
        }
        count
    }

    unsafe extern "C" fn cancel(instance: *mut Opaque, tag: u64) -> c_int {
        // SAFETY: an open instance, or null.
        let Some(instance) = (unsafe { Instance::at(instance) }) else { return -libc::EINVAL };
        match contained(|| instance.cancel(tag)) {
            Ok(()) => 0,
            Err(error) => status(&error),
        }
    }

    unsafe extern "C" fn free(data: *mut u8, len: usize) {
        if !data.is_null() {
            // SAFETY: `into_outcome` made both out of a boxed slice, and the caller gives them back once.
            drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(data, len)) });
        }
    }

    unsafe extern "C" fn close(instance: *mut Opaque) {
        if !instance.is_null() {
            // SAFETY: `open` made it out of a box, and this is the last call with it.
            let instance = unsafe { Box::from_raw(instance.cast::<Instance>()) };
            let _ = contained(|| {
                instance.close();
                Ok(())
            });
        }
    }
}

impl Instance {
    /// # Safety
    /// `pointer` is null or an instance that is open during `'a`.
    unsafe fn at<'a>(pointer: *mut Opaque) -> Option<&'a Self> {
        // SAFETY: `open` made it out of a box of this type; instances are shared between threads.
        unsafe { pointer.cast::<Self>().as_ref() }
    }
}

/// The options of a caller, whatever version of the struct it has.
///
/// # Safety
/// `options` is null, or points to a struct of at least the size that it holds.
unsafe fn given(options: *const Options) -> Result<Options> {
    if options.is_null() {
        return Ok(Options {
            size: size_of::<Options>(),
            config: ptr::null(),
            state_dir: ptr::null(),
            workers: 0,
            log: None,
            log_user: ptr::null_mut(),
        });
    }
    // SAFETY: every version of the struct begins with its size.
    match unsafe { options.cast::<usize>().read() } {
        // There is no smaller version; what a larger one adds is for a later library.
        size if size < size_of::<Options>() => {
            let message = format!("vmrt_options.size is {size}, which no version has");
            Err(Error::invalid_argument(message))
        }
        // SAFETY: it is at least this large.
        _ => Ok(unsafe { options.read() }),
    }
}

/// What the options ask for, and how many threads.
///
/// # Safety
/// The strings in `given` are null or NUL-terminated.
unsafe fn settings(given: &Options) -> Result<(Settings, u32)> {
    let workers = match given.workers {
        0 => DEFAULT_WORKERS,
        workers @ 1..=MAX_WORKERS => workers,
        workers => {
            let message = format!("vmrt_options.workers is {workers}, more than {MAX_WORKERS}");
            return Err(Error::invalid_argument(message));
        }
    };
    // SAFETY: as promised by the caller.
    let (config, state_dir) = unsafe { (path(given.config), path(given.state_dir)) };
    let state_dir = state_dir.unwrap_or_else(|| STATE_DIRECTORY.into());
    for path in config.iter().chain([&state_dir]) {
        if !path.is_absolute() {
            let message = format!("{:?} in vmrt_options is not absolute", path.display());
            return Err(Error::invalid_argument(message));
        }
    }
    Ok((Settings { config, state_dir }, workers))
}

/// # Safety
/// `text` is null or NUL-terminated.
unsafe fn path(text: *const c_char) -> Option<PathBuf> {
    if text.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    let text = unsafe { CStr::from_ptr(text) };
    Some(OsStr::from_bytes(text.to_bytes()).into())
}

/// Keeps a panic from unwinding into the daemon.
fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(broken(panic.as_ref())))
}

/// The error that a contained panic becomes.
fn broken(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Error::internal(format!("a bug in the library: {text}"))
}

fn status(error: &Error) -> c_int {
    ::log::error!("{}", error.chain());
    code_of(error.kind()) as c_int
}

#[cfg(test)]
mod tests;
