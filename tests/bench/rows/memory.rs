//! The memory of idle pods.

use conformance::HostProcess;

use crate::bench::{Bench, progress};
use crate::failure::Failure;
use crate::interrupt::rest;
use crate::report::{Findings, Measure, Runtime, Samples, Unit};
use crate::rows::Row;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "memory",
    title: "PSS for each idle pod, with so many of them alive: the shim, the rest, both",
    measures: &["shim_pss_", "rest_pss_", "pod_pss_"],
    measure: memory,
}];

/// The share of memory of what runs under the daemon, in KiB, for each pod.
#[derive(Default)]
pub(crate) struct Memory {
    /// The shims' part.
    pub(crate) shim: f64,
    /// That of the VMMs, or of the containers themselves.
    pub(crate) rest: f64,
}

impl Memory {
    /// Of everything that runs under the daemon now, so that nothing can be forgotten.
    ///
    /// # Errors
    /// When there are too few processes to be true.
    pub(crate) fn of(bench: &Bench, pods: usize) -> Result<Self, Failure> {
        let (shims, rest): (Vec<_>, Vec<_>) = bench
            .pods()
            .into_iter()
            .partition(|process| process.command.contains("containerd-shim"));
        if shims.len() < pods || rest.len() < pods {
            return Err(Failure::Unexpected(format!(
                "{pods} pods have {} shims and {} other processes",
                shims.len(),
                rest.len()
            )));
        }
        let each = |processes: &[HostProcess]| {
            let all: u64 = processes.iter().filter_map(HostProcess::pss_if_alive).sum();
            all as f64 / pods as f64
        };
        Ok(Self { shim: each(&shims), rest: each(&rest) })
    }

    /// Shim and rest.
    pub(crate) fn pod(&self) -> f64 {
        self.shim + self.rest
    }
}

fn memory(bench: &Bench) -> Result<Findings, Failure> {
    let mut measures = Vec::new();
    for &pods in bench.plan.pods {
        let mut sides = Vec::new();
        for runtime in Runtime::BOTH {
            progress(&format!("memory: {pods} of {}", runtime.name()));
            let ids: Result<Vec<_>, _> = (0..pods).map(|_| bench.idle(runtime)).collect();
            let ids = ids?;
            rest(bench.plan.settle)?;
            sides.push(Memory::of(bench, pods)?);
            bench.remove_all(&ids)?;
        }
        let mut measure = |name: &str, part: fn(&Memory) -> f64| {
            let samples = [0, 1].map(|side| Samples::of(vec![part(&sides[side])]));
            measures.push(Measure::compared(format!("{name}_{pods}"), Unit::Kibibytes, samples));
        };
        measure("shim_pss", |memory| memory.shim);
        measure("rest_pss", |memory| memory.rest);
        measure("pod_pss", Memory::pod);
    }
    Ok(Findings::of(measures).note("the rest is QEMU with vmrt, the container itself with runc"))
}
