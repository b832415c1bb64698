//! How many idle pods fit, and what they cost.

use std::time::Instant;

use crate::bench::{Bench, millis, progress};
use crate::failure::Failure;
use crate::host::memory_kib;
use crate::interrupt::rest;
use crate::report::{Findings, Measure, Runtime, Unit};
use crate::rows::Row;
use crate::rows::memory::Memory;

/// The most memory that pods may take, in KiB.
const MOST: u64 = 12 << 20;
/// What is left alone in any case, in KiB.
const SPARE: u64 = 1 << 20;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "density",
    title: "idle pods of vmrt at once",
    measures: &["density_"],
    measure: density,
}];

fn density(bench: &Bench) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let began = Instant::now();
    let (ids, stopped) = start(bench)?;
    let started = millis(began.elapsed());
    let mut answers = Vec::new();
    for id in &ids {
        progress(&format!("density: asking {id}"));
        match bench.exec_true(id) {
            Ok(finished) => answers.push(millis(finished.took)),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => findings.faults.push(failure.chain()),
        }
    }
    rest(bench.plan.settle)?;
    let memory = Memory::of(bench, ids.len())?;
    let cores = idle(bench)?;
    let began = Instant::now();
    progress("density: deleting");
    bench.remove_all(&ids)?;
    let deleted = millis(began.elapsed());

    let alone = |name: &str, unit, value: f64| Measure::alone(name, unit, vec![value]);
    findings.measures = vec![
        alone("density_pods", Unit::Pods, ids.len() as f64),
        alone("density_answer", Unit::Pods, answers.len() as f64),
        Measure::alone("density_exec", Unit::Milliseconds, answers),
        alone("density_start", Unit::Milliseconds, started / ids.len().max(1) as f64),
        alone("density_delete", Unit::Milliseconds, deleted / ids.len().max(1) as f64),
        alone("density_pod_pss", Unit::Kibibytes, memory.pod()),
        alone("density_idle_cpu", Unit::Cores, cores),
    ];
    if let Some(stopped) = stopped {
        findings = findings.note(stopped);
    }
    Ok(findings.note(format!(
        "start and delete: for each pod, of {:.1} s and {:.1} s in all; idle CPU: all pods, the daemon \
         included, over {:?}",
        started / 1000.0,
        deleted / 1000.0,
        bench.plan.watch
    )))
}

/// Starts pods one after the other until there are enough, or memory would run low.
fn start(bench: &Bench) -> Result<(Vec<String>, Option<String>), Failure> {
    let before = memory_kib("MemAvailable");
    let floor = before.saturating_sub(MOST).max(SPARE);
    let mut ids = Vec::new();
    for number in 0..bench.plan.density {
        progress(&format!("density: {number} of {}", bench.plan.density));
        let now = memory_kib("MemAvailable");
        let each = before.saturating_sub(now) / (number as u64).max(1);
        if number > 0 && now.saturating_sub(each) < floor {
            let stopped =
                format!("stopped at {number}: the next would leave under {} MiB", floor >> 10);
            return Ok((ids, Some(stopped)));
        }
        ids.push(bench.idle(Runtime::Vmrt)?);
    }
    Ok((ids, None))
}

/// How many cores everything takes while nobody asks for anything.
fn idle(bench: &Bench) -> Result<f64, Failure> {
    progress("density: watching");
    let (before, began) = (bench.cpu()?, Instant::now());
    rest(bench.plan.watch)?;
    let spent = bench.cpu()? - before;
    Ok(spent.as_secs_f64() / began.elapsed().as_secs_f64())
}
