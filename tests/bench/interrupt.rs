//! Signals that ask for an early end: what is in progress is abandoned, and everything cleaned up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// How long a wait goes on before it looks again.
pub(crate) const GLANCE: Duration = Duration::from_millis(50);

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn watch() -> Result<(), Failure> {
    let attempt = |source: io::Error| Failure::io("listen for signals", source);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(attempt)?;
    let inside = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(attempt)?;
        runtime.spawn(async move {
            // Later ones change nothing: the clean-up is already on its way.
            while signals.recv().await.is_some() {
                REQUESTED.store(true, Ordering::Relaxed);
            }
        });
    }
    drop(inside);
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(())
}

/// Whether the end was asked for.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails when the end was asked for.
pub(crate) fn check() -> Result<(), Failure> {
    if requested() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Does nothing for a time, unless the end is asked for.
pub(crate) fn rest(time: Duration) -> Result<(), Failure> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(GLANCE));
    }
}
