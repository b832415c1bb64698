//! Many starts at once.

use std::time::Instant;

use crate::bench::{Bench, each, progress};
use crate::failure::Failure;
use crate::interrupt::check;
use crate::report::{Findings, Measure, Runtime, Samples, Unit};
use crate::rows::Row;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "parallel",
    title: "so many ctr run -d at once, until the last client returns; CPU is the sum",
    measures: &["parallel_"],
    measure: parallel,
}];

fn parallel(bench: &Bench) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    for &count in bench.plan.parallel {
        let mut sides = [Samples::default(), Samples::default()];
        for round in 0..bench.plan.rounds {
            for runtime in Runtime::BOTH {
                progress(&format!("parallel: {count} of {}, round {round}", runtime.name()));
                let (started, failures) = start(bench, runtime, count, &mut sides)?;
                if let Some(first) = failures.first() {
                    findings.faults.push(format!(
                        "{started} of {count} {} containers started: {first}",
                        runtime.name()
                    ));
                }
            }
        }
        let measure = Measure::compared(format!("parallel_{count}"), Unit::Milliseconds, sides);
        findings.measures.push(measure);
    }
    if findings.faults.is_empty() {
        findings = findings.note("all of them started");
    }
    Ok(findings)
}

/// Starts `count` at once and takes them away again. Only a round in which all start is a sample.
fn start(
    bench: &Bench,
    runtime: Runtime,
    count: usize,
    sides: &mut [Samples; 2],
) -> Result<(usize, Vec<String>), Failure> {
    let ids: Vec<_> = (0..count).map(|_| bench.new_id()).collect();
    let mut outcomes = Vec::new();
    let sample = bench.measure(|| {
        let began = Instant::now();
        outcomes = each(&ids, count, |id| bench.start(runtime, id));
        Ok(began.elapsed())
    })?;
    check()?;
    let failures: Vec<_> =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err().map(Failure::chain)).collect();
    if failures.is_empty() {
        let side = &mut sides[runtime as usize];
        side.values.push(sample.millis);
        side.cpu.push(sample.cpu);
        bench.remove_all(&ids)?;
    } else {
        // Some have a task and some have not.
        bench.clear();
    }
    Ok((count - failures.len(), failures))
}
