//! The life of one container: start with its phases, exec, delete.

use std::time::Duration;

use crate::bench::{Bench, wait_until};
use crate::failure::Failure;
use crate::phases::Phases;
use crate::picture::PHASE;
use crate::report::{Findings, Measure, Runtime, Unit};
use crate::rows::Row;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "start",
        title: "ctr run -d until the client returns; below, the phases inside vmrt",
        measures: &["start", PHASE],
        measure: start,
    },
    Row {
        name: "exec",
        title: "ctr task exec of `true` in a running container",
        measures: &["exec"],
        measure: exec,
    },
    Row {
        name: "delete",
        title: "ctr task rm of a stopped container",
        measures: &["delete"],
        measure: delete,
    },
];

fn start(bench: &Bench) -> Result<Findings, Failure> {
    let mut ids = Vec::new();
    let sides = bench.alternate("start", bench.plan.samples, |runtime| {
        let id = bench.new_id();
        let sample = bench.measure(|| Ok(bench.start(runtime, &id)?.took))?;
        bench.remove(&id)?;
        if runtime == Runtime::Vmrt {
            ids.push(id);
        }
        Ok(sample)
    })?;
    let mut findings = Findings::of(vec![Measure::compared("start", Unit::Milliseconds, sides)]);
    let counted = &ids[bench.plan.warm_up.min(ids.len())..];
    let phases = Phases::of(&bench.daemon.log(), counted);
    if phases.all.is_empty() {
        return Ok(findings.note("phases: not reported"));
    }
    for (name, millis) in phases.all {
        let measure = Measure::alone(format!("{PHASE}{name}"), Unit::Milliseconds, millis);
        findings.measures.push(measure);
    }
    Ok(findings)
}

fn exec(bench: &Bench) -> Result<Findings, Failure> {
    let ids = [bench.idle(Runtime::Vmrt)?, bench.idle(Runtime::Runc)?];
    let sides = bench.alternate("exec", bench.plan.samples, |runtime| {
        bench.measure(|| Ok(bench.exec_true(&ids[runtime as usize])?.took))
    })?;
    bench.remove_all(&ids)?;
    Ok(Findings::of(vec![Measure::compared("exec", Unit::Milliseconds, sides)]))
}

fn delete(bench: &Bench) -> Result<Findings, Failure> {
    let sides = bench.alternate("delete", bench.plan.samples, |runtime| {
        let id = bench.idle(runtime)?;
        bench.ctr(&["task", "kill", "-s", "9", &id])?;
        let stopped = || Ok(bench.state(&id)? == "STOPPED");
        wait_until(&format!("{id} is stopped"), Duration::from_secs(10), stopped)?;
        // The client tells of the container's exit code, but ends with 0 itself.
        let sample = bench.measure(|| Ok(bench.ctr(&["task", "rm", &id])?.took))?;
        bench.ctr(&["container", "rm", &id])?;
        Ok(sample)
    })?;
    Ok(Findings::of(vec![Measure::compared("delete", Unit::Milliseconds, sides)]))
}
