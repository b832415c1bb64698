//! Runs cases on targets and keeps what they saw.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use conformance::{eventually, part, processes, text_of, unmount_below};
use libtest_mimic::{Completion, Failed, Trial};
use tempfile::TempDir;

use crate::case::Case;
use crate::context::Context;
use crate::differences::Differences;
use crate::fault::Fault;
use crate::record::{Observation, Outcome, Record, Records};
use crate::target::{Door, Target};

/// How long a case may take.
const CASE: Duration = Duration::from_secs(150);

/// What all cases share.
pub(crate) struct Suite {
    directory: TempDir,
    cases: AtomicU32,
    pub(crate) records: Records,
    pub(crate) differences: Differences,
}

impl Suite {
    pub(crate) fn new() -> Self {
        // Short, for sockets live below it.
        let directory = tempfile::Builder::new().prefix("vmrt-c").tempdir_in("/run").unwrap();
        let config = format!(
            "guest_image = {:?}\ntemplate_dir = {:?}\n",
            part("VMRT_GUEST_IMAGE"),
            directory.path().join("templates")
        );
        fs::write(directory.path().join("vmrt.toml"), config).unwrap();
        let (cases, records) = (AtomicU32::new(0), Records::default());
        Self { directory, cases, records, differences: Differences::read() }
    }

    /// What the names of all that belongs to this run have in them; others may run beside it.
    pub(crate) fn marks(&self) -> [String; 2] {
        let directory = self.directory.path().display().to_string();
        [directory, format!("conformance-{}-", std::process::id())]
    }

    fn run(&self, target: Target, case: &Case, fault: Option<Fault>) -> Record {
        let skipped = |why: String| Record::new(target, case, Outcome::Skipped(why));
        if let Some(why) = case.pending {
            return skipped(format!("pending: {why}"));
        }
        if let Some(why) = target.absence() {
            return skipped(why);
        }
        let number = self.cases.fetch_add(1, Ordering::Relaxed);
        let root = self.directory.path().join(number.to_string());
        fs::create_dir(&root).unwrap();
        let began = Instant::now();
        let mut record = match self.execute((target, fault), case, number, root.clone()) {
            Ok(seen) => seen.judged(Record::new(target, case, Outcome::Passed)),
            Err(why) => skipped(why),
        };
        record.took = began.elapsed();
        if let Outcome::Failed(why) = &record.outcome
            && self.differences.fails(target, case.name)
        {
            record.outcome = Outcome::Differs(why.clone());
        }
        unmount_below(&root);
        let _ = fs::remove_dir_all(&root);
        record
    }

    /// Runs the body; the error is a reason to skip it.
    fn execute(
        &self,
        (target, fault): (Target, Option<Fault>),
        case: &Case,
        number: u32,
        root: PathBuf,
    ) -> Result<Seen, String> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let tolerated = self.differences.values_of(case.name);
        let context = executor.block_on(async {
            let config = self.directory.path().join("vmrt.toml");
            let door = Door::open(target, &config, &root).await?;
            Context::open(door, &root, number, tolerated, fault).await
        });
        let context = match context {
            Ok(context) => context,
            Err(error) => return Ok(Seen::failure(format!("open: {}", error.chain()))),
        };
        let capabilities = context.runtime().capabilities();
        let lacking = case.needs.iter().find(|need| !need.met(capabilities));
        if let Some(need) = lacking {
            executor.block_on(context.close());
            return Err(format!("the {} door has no {need:?}", target.name()));
        }
        let body = std::panic::catch_unwind(AssertUnwindSafe(|| {
            executor.block_on(async { tokio::time::timeout(CASE, (case.body)(&context)).await })
        }));
        let failure = match body {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("it has not ended after {CASE:?}")),
            Err(panic) => Some(text_of(panic.as_ref())),
        };
        let (observations, deviations, marks) = executor.block_on(context.close());
        executor.shutdown_timeout(Duration::from_secs(5));
        Ok(Seen { failure, observations, deviations, left: left_of(&marks) })
    }
}

/// What came of the body of a case.
struct Seen {
    failure: Option<String>,
    observations: Vec<Observation>,
    deviations: Vec<String>,
    left: Vec<String>,
}

impl Seen {
    fn failure(why: String) -> Self {
        let (observations, deviations, left) = Default::default();
        Self { failure: Some(why), observations, deviations, left }
    }

    fn judged(self, record: Record) -> Record {
        let mut faults: Vec<_> = self.failure.into_iter().collect();
        faults.extend(self.deviations);
        if !self.left.is_empty() {
            faults.push(format!("left behind: {:#?}", self.left));
        }
        let outcome = match faults.is_empty() {
            true => Outcome::Passed,
            false => Outcome::Failed(faults.join("\n")),
        };
        Record { outcome, observations: self.observations, ..record }
    }
}

/// The processes of a case that have not ended. They are ended here: the next case must not suffer.
fn left_of(marks: &[String]) -> Vec<String> {
    let ours = || -> Vec<_> {
        let marked = |command: &str| marks.iter().any(|mark| command.contains(mark));
        processes().into_iter().filter(|one| marked(&one.command)).collect()
    };
    eventually(Duration::from_secs(5), || ours().is_empty());
    let left = ours();
    left.iter().for_each(|process| process.signal("KILL"));
    left.into_iter().map(|process| format!("process {} {}", process.pid, process.command)).collect()
}

/// Every case on every target.
pub(crate) fn trials(cases: &[Case], targets: &[Target], suite: Option<&Arc<Suite>>) -> Vec<Trial> {
    let pairs = cases.iter().flat_map(|case| targets.iter().map(move |target| (*case, *target)));
    let trial = |(case, target): (Case, Target)| {
        let suite = suite.cloned();
        let name = format!("{}: {}", target.name(), case.name);
        Trial::ignorable_test(name, move || {
            let Some(suite) = suite else { return Ok(Completion::Completed) };
            let record = suite.run(target, &case, None);
            let outcome = record.outcome.clone();
            suite.records.add(record);
            match outcome {
                Outcome::Passed => Ok(Completion::Completed),
                Outcome::Skipped(why) => Ok(Completion::ignored_with(why)),
                Outcome::Differs(_) => Ok(Completion::ignored_with("a listed difference")),
                Outcome::Failed(why) => Err(Failed::from(why)),
            }
        })
    };
    pairs.map(trial).chain(fault_trials(cases, targets, suite)).collect()
}

/// The cases themselves are tried on one of our doors: each fault must be found.
fn fault_trials(cases: &[Case], targets: &[Target], suite: Option<&Arc<Suite>>) -> Vec<Trial> {
    let Some(target) = targets.iter().copied().find(|one| *one != Target::Reference) else {
        return Vec::new();
    };
    let trial = |&(fault, name): &(Fault, &str)| {
        let suite = suite.cloned();
        let case = cases.iter().find(|case| case.name == name).copied();
        let case = case.unwrap_or_else(|| panic!("no case {name:?}"));
        Trial::test(format!("fault: {fault:?} is found by: {name}"), move || {
            let Some(suite) = suite else { return Ok(()) };
            match suite.run(target, &case, Some(fault)).outcome {
                Outcome::Failed(_) => Ok(()),
                other => Err(Failed::from(format!("it was not found: {other:?}"))),
            }
        })
    };
    Fault::ALL.iter().map(trial).collect()
}
