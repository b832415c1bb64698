//! Every child ends here: PID 1 inherits the orphans of the whole guest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use runtime_api::{Result, ResultExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Hands the exit codes of children to those who wait for them.
///
/// A process may end before the helper that made it has told its number. While anybody expects such
/// a number, the exits of strangers are kept; otherwise they are the orphans of some container.
#[derive(Default)]
pub(crate) struct Reaper(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: HashMap<Pid, oneshot::Sender<u32>>,
    unclaimed: HashMap<Pid, u32>,
    expectations: usize,
}

/// Keeps the exits of strangers for as long as it lives.
pub(crate) struct Expectation(Arc<Reaper>);

impl Reaper {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces that somebody will ask for a process that is not known yet.
    pub(crate) fn expect(self: &Arc<Self>) -> Expectation {
        self.state().expectations += 1;
        Expectation(Arc::clone(self))
    }

    /// Reaps for as long as the process lives.
    pub(crate) async fn run(&self) -> Result<()> {
        let mut children =
            signal(SignalKind::child()).internal(|| "install a handler for SIGCHLD")?;
        loop {
            self.reap();
            children.recv().await;
        }
    }

    fn reap(&self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code.unsigned_abs()),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return log::error!("wait for children: {error}"),
            };
            self.state().ended(pid, code);
        }
    }
}

impl State {
    fn ended(&mut self, pid: Pid, code: u32) {
        if let Some(waiter) = self.waiting.remove(&pid) {
            // A waiter that has left does not need the code.
            let _ = waiter.send(code);
        } else if self.expectations > 0 {
            self.unclaimed.insert(pid, code);
        }
    }
}

impl Expectation {
    /// The exit code of `pid`, when it comes or has come.
    pub(crate) fn claim(&self, pid: Pid) -> oneshot::Receiver<u32> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.state();
        // Not everybody who has claimed an exit stays to hear of it.
        state.waiting.retain(|_, waiter| !waiter.is_closed());
        match state.unclaimed.remove(&pid) {
            Some(code) => {
                let _ = sender.send(code);
            }
            None => {
                state.waiting.insert(pid, sender);
            }
        }
        receiver
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.expectations -= 1;
        if state.expectations == 0 {
            state.unclaimed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_exit_before_its_claim_is_kept_while_it_is_expected() {
        let reaper = Arc::new(Reaper::default());
        let expectation = reaper.expect();
        reaper.state().ended(Pid::from_raw(7), 42);
        assert_eq!(expectation.claim(Pid::from_raw(7)).await.unwrap(), 42);

        let later = expectation.claim(Pid::from_raw(8));
        drop(expectation);
        reaper.state().ended(Pid::from_raw(8), 137);
        assert_eq!(later.await.unwrap(), 137);
    }

    #[test]
    fn the_exits_of_strangers_are_not_collected() {
        let reaper = Arc::new(Reaper::default());
        reaper.state().ended(Pid::from_raw(7), 0);
        assert!(reaper.state().unclaimed.is_empty());
        let expectation = reaper.expect();
        reaper.state().ended(Pid::from_raw(7), 0);
        drop(expectation);
        assert!(reaper.state().unclaimed.is_empty());
    }
}
