//! What was seen through the doors, compared case by case.

use std::collections::BTreeSet;

use crate::differences::{Difference, Differences};
use crate::record::{Outcome, Record};
use crate::target::Target;

/// Two values of one observation that ought to be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) case: String,
    pub(crate) what: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// Why that is right, where the table says so.
    pub(crate) reason: Option<String>,
}

/// The verdict over a run.
#[derive(Debug, Default)]
pub(crate) struct Parity {
    /// Between library and wire, where there must be none.
    pub(crate) doors: Vec<Mismatch>,
    /// Between wire and reference.
    pub(crate) reference: Vec<Mismatch>,
    /// Rows of the table that do not hold any more.
    pub(crate) stale: Vec<Difference>,
}

impl Parity {
    pub(crate) fn of(records: &[Record], differences: &Differences) -> Self {
        let on = |target: Target, name: &str| {
            records.iter().find(|one| one.target == target && one.name == name && ran(one))
        };
        let names: BTreeSet<_> = records.iter().map(|record| record.name).collect();
        let mut parity = Self::default();
        for name in names {
            let wire = on(Target::Wire, name);
            if let (Some(library), Some(wire)) = (on(Target::Library, name), wire) {
                parity.doors.extend(compare(library, wire));
            }
            if let (Some(wire), Some(reference)) = (wire, on(Target::Reference, name)) {
                parity.look_at(wire, reference, differences);
            }
        }
        parity
    }

    /// Whether everything is as it must be.
    pub(crate) fn holds(&self) -> bool {
        let explained = self.reference.iter().all(|mismatch| mismatch.reason.is_some());
        self.doors.is_empty() && explained && self.stale.is_empty()
    }

    fn look_at(&mut self, wire: &Record, reference: &Record, differences: &Differences) {
        let listed: Vec<_> =
            differences.difference.iter().filter(|row| row.case == wire.name).collect();
        let mut used = vec![false; listed.len()];
        let mut seen = compare(wire, reference);
        if let Some(row) = listed.iter().position(|row| row.is_outcome())
            && matches!(reference.outcome, Outcome::Differs(_))
        {
            // Where the case came to its end early, what it did not see says nothing.
            used[row] = true;
            seen.retain(|mismatch| mismatch.theirs != NOTHING);
            seen.push(Mismatch {
                case: wire.name.to_owned(),
                what: listed[row].what.clone(),
                ours: "passed".to_owned(),
                theirs: listed[row].reference.clone(),
                reason: None,
            });
        }
        for mut mismatch in seen {
            let row = listed
                .iter()
                .position(|row| row.what == mismatch.what && row.reference == mismatch.theirs);
            if let Some(row) = row {
                used[row] = true;
                mismatch.reason = Some(listed[row].reason.clone());
            }
            self.reference.push(mismatch);
        }
        let unused = listed.iter().zip(used).filter(|(_, used)| !used);
        self.stale.extend(unused.map(|(row, _)| (*row).clone()));
    }
}

/// What stands for an observation that was not made.
const NOTHING: &str = "(nothing)";

fn ran(record: &Record) -> bool {
    !matches!(record.outcome, Outcome::Skipped(_))
}

fn compare(ours: &Record, theirs: &Record) -> Vec<Mismatch> {
    let both = ours.observations.iter().chain(&theirs.observations);
    let names: BTreeSet<_> = both.map(|observation| observation.what.as_str()).collect();
    let mismatch = |what: &str| {
        let values = (ours.value(what).unwrap_or(NOTHING), theirs.value(what).unwrap_or(NOTHING));
        (values.0 != values.1).then(|| Mismatch {
            case: ours.name.to_owned(),
            what: what.to_owned(),
            ours: values.0.to_owned(),
            theirs: values.1.to_owned(),
            reason: None,
        })
    };
    names.into_iter().filter_map(mismatch).collect()
}

/// The comparison itself, on records made up for it; called by `main` before any case is run, for
/// a report that cannot find anything would be worse than none.
pub(crate) fn prove() {
    use crate::record::Observation;
    let record = |target, value: &str, outcome| Record {
        target,
        name: "case",
        clause: "",
        outcome,
        observations: vec![Observation { what: "code".to_owned(), value: value.to_owned() }],
        took: std::time::Duration::ZERO,
    };
    let wire = record(Target::Wire, "1", Outcome::Passed);
    let table = |text: &str| Differences {
        difference: vec![Difference {
            case: "case".to_owned(),
            what: "code".to_owned(),
            reference: text.to_owned(),
            reason: "why".to_owned(),
        }],
    };
    let none = Differences { difference: Vec::new() };
    let judge =
        |other: Record, table: &Differences| Parity::of(&[wire.clone(), other], table).holds();
    assert!(judge(record(Target::Library, "1", Outcome::Passed), &none));
    assert!(!judge(record(Target::Library, "2", Outcome::Passed), &none));
    assert!(judge(record(Target::Reference, "1", Outcome::Passed), &none));
    assert!(!judge(record(Target::Reference, "2", Outcome::Passed), &none));
    assert!(judge(record(Target::Reference, "2", Outcome::Passed), &table("2")));
    assert!(!judge(record(Target::Reference, "3", Outcome::Passed), &table("2")));
    assert!(!judge(record(Target::Reference, "1", Outcome::Passed), &table("2")));
    assert!(judge(record(Target::Reference, "2", Outcome::Skipped(String::new())), &none));
}
