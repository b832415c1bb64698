//! What every row works with: the daemon, its containers, and the meters.

use std::io::{IsTerminal, Write};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conformance::{Daemon, HostProcess, Leaks, processes};

use crate::cgroup::CpuGroup;
use crate::command::{Finished, run};
use crate::failure::Failure;
use crate::interrupt::{check, rest};
use crate::options::Plan;
use crate::report::{Runtime, Samples};

/// No single command takes longer: fifty cold boots at once under TCG are the longest.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);
/// What an operation has set off is counted as its processor time for so long after its end.
const TRAIL: Duration = Duration::from_millis(100);
/// How many clients delete at once.
pub(crate) const DELETERS: usize = 8;

/// One private daemon with both runtimes, and everything that is running under it.
pub(crate) struct Bench {
    pub(crate) plan: Plan,
    pub(crate) daemon: Daemon,
    pub(crate) group: CpuGroup,
    /// What was on the machine before.
    pub(crate) leaks: Leaks,
    /// The namespace, the control group, and how every container's id begins.
    pub(crate) name: String,
    containers: AtomicU32,
}

/// Time and processor time of one operation, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) millis: f64,
    pub(crate) cpu: f64,
}

impl Bench {
    /// Starts the daemon inside a control group of its own.
    pub(crate) fn begin(plan: Plan) -> Result<Self, Failure> {
        let name = format!("bench-{}", std::process::id());
        let leaks = Leaks::remember();
        let group = CpuGroup::enter(&name)?;
        let daemon = Daemon::start_apart(&name);
        Ok(Self { plan, daemon, group, leaks, name, containers: AtomicU32::new(0) })
    }

    /// A new id for a container.
    pub(crate) fn new_id(&self) -> String {
        format!("{}-{}", self.name, self.containers.fetch_add(1, Ordering::Relaxed))
    }

    /// The processor time that everything has taken so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        self.group.cpu()
    }

    /// A client command that must succeed.
    pub(crate) fn ctr(&self, words: &[&str]) -> Result<Finished, Failure> {
        run(self.daemon.ctr(words).into_command(), DEADLINE)
    }

    /// `ctr run` that has not run yet.
    pub(crate) fn run(
        &self,
        runtime: Runtime,
        id: &str,
        options: &[&str],
        words: &[&str],
    ) -> Command {
        self.daemon.run_under(runtime.containerd(), id, options, words).into_command()
    }

    /// `ctr run -d` of a container that does nothing.
    pub(crate) fn start(&self, runtime: Runtime, id: &str) -> Result<Finished, Failure> {
        run(self.run(runtime, id, &["-d"], &["sleep", "1000000"]), DEADLINE)
    }

    /// A container that does nothing.
    pub(crate) fn idle(&self, runtime: Runtime) -> Result<String, Failure> {
        let id = self.new_id();
        self.start(runtime, &id)?;
        Ok(id)
    }

    /// `ctr task exec` of `true`.
    pub(crate) fn exec_true(&self, id: &str) -> Result<Finished, Failure> {
        self.ctr(&["task", "exec", "--exec-id", "exec", id, "true"])
    }

    /// The state of a container as the client shows it.
    pub(crate) fn state(&self, id: &str) -> Result<String, Failure> {
        let list = self.ctr(&["task", "ls"])?.text();
        let of = |line: &str| {
            let mut fields = line.split_whitespace();
            (fields.next()? == id).then(|| fields.nth(1).map(str::to_owned))?
        };
        Ok(list.lines().find_map(of).unwrap_or_default())
    }

    /// Takes a container away, whatever its state.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Failure> {
        self.ctr(&["task", "rm", "-f", id])?;
        self.ctr(&["container", "rm", id]).map(drop)
    }

    /// [`remove`](Self::remove) for many, several at a time.
    pub(crate) fn remove_all(&self, ids: &[String]) -> Result<(), Failure> {
        each(ids, DELETERS, |id| self.remove(id)).into_iter().collect()
    }

    /// Measures one operation: the time that it says it took, and the processor time of everything
    /// until a moment after.
    pub(crate) fn measure(
        &self,
        operation: impl FnOnce() -> Result<Duration, Failure>,
    ) -> Result<Sample, Failure> {
        let before = self.cpu()?;
        let took = operation()?;
        rest(TRAIL)?;
        Ok(Sample { millis: millis(took), cpu: millis(self.cpu()? - before) })
    }

    /// Takes samples of both runtimes in turn, those of the warm-up first, which are dropped.
    pub(crate) fn alternate(
        &self,
        what: &str,
        count: usize,
        mut sample: impl FnMut(Runtime) -> Result<Sample, Failure>,
    ) -> Result<[Samples; 2], Failure> {
        let mut sides = [Samples::default(), Samples::default()];
        for round in 0..self.plan.warm_up + count {
            progress(&format!("{what}: {round} of {}", self.plan.warm_up + count));
            // Each goes first every other time.
            for turn in 0..2 {
                let side = (round + turn) % 2;
                let sample = sample(Runtime::BOTH[side])?;
                if round >= self.plan.warm_up {
                    sides[side].values.push(sample.millis);
                    sides[side].cpu.push(sample.cpu);
                }
            }
        }
        Ok(sides)
    }

    /// What runs under the daemon: shims, VMMs and containers.
    pub(crate) fn pods(&self) -> Vec<HostProcess> {
        let ours = self.group.pids();
        let apart = [std::process::id(), self.daemon.pid()];
        let of_pods =
            |process: &HostProcess| ours.contains(&process.pid) && !apart.contains(&process.pid);
        processes().into_iter().filter(of_pods).collect()
    }
}

/// Calls `work` for every item, on so many threads, and keeps the order of the answers.
pub(crate) fn each<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let (next, work) = (&next, &work);
    let worker = move || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(Failure::Unexpected(format!("{what}: not within {limit:?}")));
        }
        rest(Duration::from_millis(20))?;
    }
    check()
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Tells of progress: on a terminal in one line that is written over.
pub(crate) fn progress(what: &str) {
    let mut stderr = std::io::stderr();
    let _ = if stderr.is_terminal() {
        write!(stderr, "\r\x1b[K{what}")
    } else {
        writeln!(stderr, "{what}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_answers_keep_their_order() {
        let items: Vec<_> = (0..100).collect();
        assert_eq!(each(&items, 7, |item| item * 2), (0..200).step_by(2).collect::<Vec<_>>());
        assert_eq!(each(&[], 7, |item: &u8| *item), Vec::<u8>::new());
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let result = wait_until("never", Duration::from_millis(50), || Ok(false));
        assert!(result.unwrap_err().to_string().contains("never"));
    }
}
