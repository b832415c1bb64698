//! vmrt as a library: the table, from Rust and C, and what it is like to live with it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails loudly")]

mod hosts;
mod life;
mod loading;
mod manners;
mod place;
mod restart;

use std::process::ExitCode;
use std::sync::Arc;

use conformance::{Leaks, text_of};
use libtest_mimic::{Arguments, Failed, Trial};

use place::Place;

/// A case: a sentence that says what holds, and the body that shows it.
type Case = (&'static str, fn(&Place));

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases =
        [loading::CASES, life::CASES, restart::CASES, manners::CASES, hosts::CASES].concat();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&cases, None)).exit_code();
    }
    let leaks = Leaks::remember();
    let suite = Arc::new(place::Suite::new());
    let conclusion = libtest_mimic::run(&arguments, trials(&cases, Some(&suite)));
    drop(suite);
    let left = leaks.found();
    if left.is_empty() {
        return conclusion.exit_code();
    }
    #[expect(clippy::print_stderr, reason = "the report of a test program")]
    {
        eprintln!("left behind by the suite: {left:#?}");
    }
    ExitCode::FAILURE
}

fn trials(cases: &[Case], suite: Option<&Arc<place::Suite>>) -> Vec<Trial> {
    let trial = |&(name, body): &Case| {
        let suite = suite.cloned();
        Trial::test(name, move || {
            let Some(suite) = suite else { return Ok(()) };
            let place = suite.place();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&place)));
            outcome.map_err(|panic| Failed::from(text_of(panic.as_ref())))
        })
    };
    cases.iter().map(trial).collect()
}
