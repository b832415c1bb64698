//! What waits to be reaped.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use runtime_api::{Error, Result, ResultExt};
use runtime_task::convert::code_of;

use crate::abi::Outcome;

/// An answer or an event.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) tag: u64,
    pub(super) key: u64,
    pub(super) code: i32,
    pub(super) fd: Option<OwnedFd>,
    pub(super) event: u32,
    pub(super) data: Vec<u8>,
}

impl Completion {
    pub(super) fn answer(tag: u64, key: u64, data: Vec<u8>) -> Self {
        Self { tag, key, code: 0, fd: None, event: 0, data }
    }

    pub(super) fn failed(tag: u64, key: u64, error: &Error) -> Self {
        let code = code_of(error.kind()) as i32;
        Self { code, ..Self::answer(tag, key, error.chain().into_bytes()) }
    }

    /// Gives everything in it to the caller.
    pub(super) fn into_outcome(self) -> Outcome {
        let data = self.data.into_boxed_slice();
        let len = data.len();
        Outcome {
            tag: self.tag,
            key: self.key,
            code: self.code,
            fd: self.fd.map_or(-1, IntoRawFd::into_raw_fd),
            event: self.event,
            reserved: 0,
            data: if len == 0 { ptr::null_mut() } else { Box::into_raw(data).cast() },
            len,
        }
    }
}

/// Completions in the order in which they came, and a descriptor that is readable while there are
/// any.
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Completion>>,
    signal: EventFd,
}

impl Queue {
    pub(super) fn new() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let signal = EventFd::from_value_and_flags(0, flags).internal(|| "make an eventfd")?;
        Ok(Self { waiting: Mutex::default(), signal })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.signal.as_fd().as_raw_fd()
    }

    pub(super) fn push(&self, completion: Completion) {
        let mut waiting = self.waiting();
        waiting.push_back(completion);
        if waiting.len() == 1
            && let Err(error) = self.signal.write(1)
        {
            log::error!("write to the eventfd: {error}");
        }
    }

    pub(super) fn take(&self, max: usize) -> Vec<Completion> {
        let mut waiting = self.waiting();
        let count = max.min(waiting.len());
        let taken = waiting.drain(..count).collect();
        // Read only when it has been written to: it holds 1 as long as something waits.
        if count > 0
            && waiting.is_empty()
            && let Err(error) = self.signal.read()
        {
            log::error!("read from the eventfd: {error}");
        }
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Completion>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn readable(queue: &Queue) -> bool {
        let mut fds = [PollFd::new(queue.signal.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_while_something_waits() {
        let queue = Queue::new().unwrap();
        assert!(!readable(&queue));
        for tag in 1..=3 {
            queue.push(Completion::answer(tag, 0, Vec::new()));
        }
        let tags = |max| queue.take(max).iter().map(|one| one.tag).collect::<Vec<_>>();
        assert_eq!(tags(2), [1, 2]);
        assert!(readable(&queue));
        assert_eq!(tags(9), [3]);
        assert!(!readable(&queue));
        assert!(tags(9).is_empty());
    }
}
