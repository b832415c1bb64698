//! How fast the processor's time-stamp counter runs.
//!
//! A guest under TCG reads the host's counter. Left to itself it finds out the speed by comparison
//! with an emulated timer, and on a loaded host it finds out wrongly: its clock then runs at several
//! times the speed, and its deadlines with it. So it is told.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "reading the counter is an intrinsic of the processor")
)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Long enough for a precision of some parts in a hundred thousand.
const INTERVAL: Duration = Duration::from_millis(10);
/// One of these tries to read clock and counter together is not interrupted.
const TRIES: usize = 8;

/// The counter's frequency in kHz, measured once; `None` where there is no such counter.
pub(super) async fn khz() -> Option<u64> {
    static MEASURED: OnceLock<Option<u64>> = OnceLock::new();
    if let Some(measured) = MEASURED.get() {
        return *measured;
    }
    let measured = measure().await;
    *MEASURED.get_or_init(|| measured)
}

async fn measure() -> Option<u64> {
    let (first, then) = sample()?;
    tokio::time::sleep(INTERVAL).await;
    let (last, now) = sample()?;
    let nanoseconds = u64::try_from(now.duration_since(then).as_nanos()).ok()?;
    last.checked_sub(first)?.checked_mul(1_000_000)?.checked_div(nanoseconds).filter(|khz| *khz > 0)
}

/// The counter and the clock at the same moment, as nearly as can be.
fn sample() -> Option<(u64, Instant)> {
    let together = || -> Option<(u64, u64, Instant)> {
        let before = counter()?;
        let now = Instant::now();
        let width = counter()?.checked_sub(before)?;
        Some((width, before + width / 2, now))
    };
    let best = (0..TRIES).filter_map(|_| together()).min_by_key(|(width, ..)| *width)?;
    Some((best.1, best.2))
}

#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: RDTSC has no preconditions; the kernel may forbid it to user space, but does not do so
    // for programs that have not asked for that (prctl(2), PR_SET_TSC).
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_measurements_agree() {
        let (Some(one), Some(two)) = (measure().await, measure().await) else { return };
        assert!(one.abs_diff(two) < one / 100, "{one} kHz and {two} kHz");
    }
}
