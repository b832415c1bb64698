//! vmrt under the real containerd, driven by its real client.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails loudly")]

mod confinement;
mod deaths;
mod errors;
mod life;
mod memory;
mod pressure;
mod restart;
mod spec;
mod streams;
mod templates;
mod volumes;

use std::process::ExitCode;
use std::sync::Arc;

use conformance::{Daemon, Leaks, text_of};
use libtest_mimic::{Arguments, Failed, Trial};

/// A case: a sentence that says what holds, and the body that shows it with containers of the
/// given name.
type Case = (&'static str, fn(&Daemon, &str));

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        life::CASES,
        deaths::CASES,
        memory::CASES,
        restart::CASES,
        pressure::CASES,
        spec::CASES,
        templates::CASES,
        streams::CASES,
        confinement::CASES,
        volumes::CASES,
        errors::CASES,
    ];
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(&cases.concat(), None)).exit_code();
    }
    let leaks = Leaks::remember();
    let daemon = Arc::new(Daemon::start());
    let conclusion = libtest_mimic::run(&arguments, trials(&cases.concat(), Some(&daemon)));
    drop(daemon);
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

fn trials(cases: &[Case], daemon: Option<&Arc<Daemon>>) -> Vec<Trial> {
    let trial = |&(name, body): &Case| {
        let daemon = daemon.cloned();
        Trial::test(name, move || {
            let Some(daemon) = daemon else { return Ok(()) };
            let id = daemon.new_id("c");
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                body(&daemon, &id);
                daemon.leaves_nothing(&id);
            }));
            outcome.map_err(|panic| {
                let failed = failed(panic.as_ref(), &daemon.last_words_about(&id));
                daemon.remove(&id);
                failed
            })
        })
    };
    cases.iter().map(trial).collect()
}

fn failed(panic: &(dyn std::any::Any + Send), log: &str) -> Failed {
    Failed::from(format!("{}\n-- the daemon's log --\n{log}", text_of(panic)))
}
