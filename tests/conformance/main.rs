//! The conformance suite: cases that know only `&dyn Runtime`, on every door to one.
//!
//! `VMRT_TARGETS` chooses among `library`, `wire` and `reference`; a filter chooses among the trials,
//! which are named `target: case`. After the run what was seen through the doors is compared: library
//! and wire must be the same, and where the reference differs a row of `differences.toml` must say why.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails loudly")]

mod bounded;
mod case;
mod cases;
mod context;
mod differences;
mod fault;
mod parity;
mod process;
mod record;
mod report;
mod streams;
mod suite;
mod target;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;

use conformance::Leaks;
use libtest_mimic::Arguments;

use parity::Parity;
use suite::{Suite, trials};
use target::Target;

/// More at a time than the machine has processors would measure its scheduler.
const THREADS: usize = 2;
#[expect(clippy::print_stdout, reason = "the report of a test program")]
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let (cases, targets) = (cases::all(), Target::chosen());
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&cases, &targets, None)).exit_code();
    }
    parity::prove();
    let leaks = Leaks::remember();
    let suite = Arc::new(Suite::new());
    let conclusion = libtest_mimic::run(&arguments, trials(&cases, &targets, Some(&suite)));
    let records = suite.records.all();
    let parity = Parity::of(&records, &suite.differences);
    let marks = suite.marks();
    drop(suite);
    let left = leaks.found_where(|thing| marks.iter().any(|mark| thing.contains(mark)));
    let directory = report::directory();
    let text = report::write(&records, &parity, &directory).expect("write the report");
    println!("{text}report: {}", directory.join("matrix.html").display());
    if !left.is_empty() {
        println!("left behind by the suite: {left:#?}");
    }
    match left.is_empty() && parity.holds() {
        true => conclusion.exit_code(),
        false => ExitCode::FAILURE,
    }
}
