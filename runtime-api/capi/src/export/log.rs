//! The log of the library, as far as instances want it.
//!
//! The log of this library is its own: the daemon's, if that is in Rust too, is another copy.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::abi;

/// The log function of a caller, with what it is to be handed.
#[derive(Clone, Copy)]
pub(super) struct Callback {
    function: abi::Log,
    user: *mut c_void,
}

// SAFETY: the header asks of the caller that both may be used from any thread.
unsafe impl Send for Callback {}

impl Callback {
    pub(super) fn of(options: &abi::Options) -> Option<Self> {
        options.log.map(|function| Self { function, user: options.log_user })
    }
}

type Slot = Arc<Mutex<Option<Callback>>>;

static SINKS: Mutex<Vec<Slot>> = Mutex::new(Vec::new());
static INSTALLED: Once = Once::new();

/// Has lines sent to a callback for as long as it lives; after that the callback is not called again.
pub(super) struct Sink(Option<Slot>);

impl Sink {
    pub(super) fn install(callback: Option<Callback>) -> Self {
        INSTALLED.call_once(|| {
            // Nobody else in this library sets a logger, so that this succeeds.
            if log::set_logger(&Lines).is_ok() {
                log::set_max_level(LevelFilter::Debug);
            }
            std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
        });
        let slot = callback.map(|callback| Arc::new(Mutex::new(Some(callback))));
        lock(&SINKS).extend(slot.clone());
        Self(slot)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            lock(&SINKS).retain(|other| !Arc::ptr_eq(slot, other));
            // Waits for a call that is under way.
            *lock(slot) = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Not held during the calls, which may be slow.
        let sinks = lock(&SINKS).clone();
        if sinks.is_empty() {
            return;
        }
        let line = record.args().to_string().replace('\n', " ");
        for sink in sinks {
            if let Some(callback) = &*lock(&sink) {
                let level = record.level() as c_int;
                (callback.function)(callback.user, level, line.as_ptr().cast(), line.len());
            }
        }
    }

    fn flush(&self) {}
}
