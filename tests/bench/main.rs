//! What vmrt costs beside runc: the same containers, the same daemon, one run.
//!
//! ```text
//! options ─► Bench: control group, daemon ─► rows, one after the other ─► Report ─► table, JSON,
//!                                                                                   picture, gate
//! ```
//!
//! Samples of the two runtimes are taken in turn, so that what else happens on the machine happens to
//! both. Started by scripts/bench.sh, which builds what is measured.

mod bench;
mod cgroup;
mod clean;
mod command;
mod failure;
mod gate;
mod host;
mod interrupt;
mod options;
mod phases;
mod picture;
mod report;
mod rows;
mod statistics;
mod table;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use bench::{Bench, progress};
use failure::Failure;
use gate::Gate;
use host::Host;
use options::{Options, USAGE};
use report::{Findings, Report, RowReport, Runtime};
use table::Style;

/// How a shell tells of a program that a signal ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        print(USAGE);
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(words).and_then(known) {
        Ok(options) => options,
        Err(mistake) => {
            complain(&mistake);
            return ExitCode::from(2);
        }
    };
    match measure(&options) {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            for complaint in complaints {
                complain(&complaint);
            }
            ExitCode::FAILURE
        }
        Err(Failure::Interrupted) => {
            complain("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(failure) => {
            complain(&failure.chain());
            ExitCode::FAILURE
        }
    }
}

/// Refuses rows that do not exist.
fn known(options: Options) -> Result<Options, String> {
    let names: Vec<_> = rows::all().map(|row| row.name).collect();
    match options.rows.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("no such row: {name} (there are: {})", names.join(" "))),
        None => Ok(options),
    }
}

/// Measures, cleans up and reports. Answers what was not as it should be.
fn measure(options: &Options) -> Result<Vec<String>, Failure> {
    // Read first: a mistake in it should not show after minutes.
    let gate = options.gate.as_deref().map(Gate::read).transpose()?;
    interrupt::watch()?;
    let bench = Bench::begin(options.plan.clone())?;
    let measured = rows_of(&bench, options);
    progress("cleaning up");
    let left = bench.end();
    progress("");
    if !left.is_empty() {
        complain(&format!("left behind: {left:#?}"));
    }
    let report = measured?;
    print(&table::render(&report, style()));
    report.write(&options.json)?;
    if let Some(path) = &options.picture {
        draw(&report, path)?;
    }
    let mut complaints = report.faults();
    if let Some(gate) = gate {
        let wanted = |name: &str| rows::of_measure(name).is_none_or(|row| options.wants(row.name));
        let exceeded = gate.exceeded(&report, wanted);
        complaints.extend(exceeded.into_iter().map(|line| format!("over the limit: {line}")));
    }
    complaints.extend(left.into_iter().map(|thing| format!("left behind: {thing}")));
    Ok(complaints)
}

/// Measures the rows that are wanted. One that fails does not keep the others from being measured.
fn rows_of(bench: &Bench, options: &Options) -> Result<Report, Failure> {
    let mut report = Report { host: Host::look(), rows: Vec::new() };
    meet_guest(bench, &mut report.host)?;
    for row in rows::all().filter(|row| options.wants(row.name)) {
        let findings = match (row.measure)(bench) {
            Ok(findings) => findings,
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                let mut faults = vec![failure.chain()];
                // What the row had running would be in the figures of the next.
                faults.extend(bench.clear().into_iter().map(|left| format!("left behind: {left}")));
                Findings { faults, ..Findings::default() }
            }
        };
        report.rows.push(RowReport { name: row.name, title: row.title, findings });
    }
    Ok(report)
}

/// Asks a first guest for its kernel, and looks at what it runs on.
fn meet_guest(bench: &Bench, host: &mut Host) -> Result<(), Failure> {
    progress("warming up");
    let id = bench.idle(Runtime::Vmrt)?;
    let words = ["task", "exec", "--exec-id", "kernel", &id, "uname", "-r"];
    host.guest_kernel = bench.ctr(&words)?.text();
    let accelerator = bench
        .pods()
        .iter()
        .find_map(|process| host::accelerator(&process.command).map(str::to_owned));
    host.accelerator = accelerator.unwrap_or_else(|| "unknown".into());
    bench.remove(&id)
}

fn draw(report: &Report, path: &Path) -> Result<(), Failure> {
    let svg = picture::draw(report);
    let svg = svg.ok_or_else(|| Failure::Unexpected("no picture without the row start".into()))?;
    report::write(path, &svg)
}

fn style() -> Style {
    if std::io::stdout().is_terminal() { Style::Coloured } else { Style::Plain }
}

/// A reader who has gone is no reason to fail.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
