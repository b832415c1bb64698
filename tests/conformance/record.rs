//! What was seen: the raw material of the report.

use std::sync::Mutex;
use std::time::Duration;

use crate::case::Case;
use crate::target::Target;

/// Something that a case saw, in words that do not change from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) what: String,
    pub(crate) value: String,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    /// The reference cannot pass it, as the table of differences says.
    Differs(String),
    Skipped(String),
}

/// One case on one target.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) target: Target,
    pub(crate) name: &'static str,
    pub(crate) clause: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) observations: Vec<Observation>,
    pub(crate) took: Duration,
}

impl Record {
    pub(crate) fn new(target: Target, case: &Case, outcome: Outcome) -> Self {
        let (name, clause) = (case.name, case.clause);
        let (observations, took) = (Vec::new(), Duration::ZERO);
        Self { target, name, clause, outcome, observations, took }
    }

    /// What it saw under this name.
    pub(crate) fn value(&self, what: &str) -> Option<&str> {
        let found = self.observations.iter().find(|observation| observation.what == what);
        found.map(|observation| observation.value.as_str())
    }
}

/// All records of a run.
#[derive(Default)]
pub(crate) struct Records(Mutex<Vec<Record>>);

impl Records {
    pub(crate) fn add(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().unwrap().clone()
    }
}
