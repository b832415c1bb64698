//! What was measured.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::host::Host;
use crate::statistics::{median, percentile};

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Vmrt,
    Runc,
}

impl Runtime {
    pub(crate) const BOTH: [Self; 2] = [Self::Vmrt, Self::Runc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vmrt => "vmrt",
            Self::Runc => "runc",
        }
    }

    /// Its name for the daemon.
    pub(crate) fn containerd(self) -> &'static str {
        match self {
            Self::Vmrt => conformance::RUNTIME,
            Self::Runc => "io.containerd.runc.v2",
        }
    }
}

/// What a sample is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    MegabytesPerSecond,
    OperationsPerSecond,
    Kibibytes,
    Cores,
    Pods,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::MegabytesPerSecond => "MB/s",
            Self::OperationsPerSecond => "op/s",
            Self::Kibibytes => "KiB",
            Self::Cores => "cores",
            Self::Pods => "pods",
        }
    }

    /// The percentile that is close to the worst.
    pub(crate) fn bad_percentile(self) -> f64 {
        if self.is_rate() { 1.0 } else { 99.0 }
    }

    /// Whether more is better.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::MegabytesPerSecond | Self::OperationsPerSecond)
    }
}

/// The samples of one runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples {
    pub(crate) values: Vec<f64>,
    /// The processor time of each operation in milliseconds, where it was measured.
    pub(crate) cpu: Vec<f64>,
}

impl Samples {
    pub(crate) fn of(values: Vec<f64>) -> Self {
        Self { values, cpu: Vec::new() }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        median(&self.values)
    }

    fn json(&self) -> Value {
        json!({
            "median": self.median(),
            "p1": percentile(&self.values, 1.0),
            "p99": percentile(&self.values, 99.0),
            "samples": self.values,
            "cpu_ms_median": median(&self.cpu),
            "cpu_ms_samples": self.cpu,
        })
    }
}

/// One quantity, of both runtimes or of vmrt alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) vmrt: Samples,
    pub(crate) runc: Option<Samples>,
}

impl Measure {
    pub(crate) fn compared(name: impl Into<String>, unit: Unit, sides: [Samples; 2]) -> Self {
        let [vmrt, runc] = sides;
        Self { name: name.into(), unit, vmrt, runc: Some(runc) }
    }

    pub(crate) fn alone(name: impl Into<String>, unit: Unit, vmrt: Vec<f64>) -> Self {
        Self { name: name.into(), unit, vmrt: Samples::of(vmrt), runc: None }
    }

    /// vmrt's median over runc's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let runc = self.runc.as_ref()?.median().filter(|median| *median > 0.0)?;
        Some(self.vmrt.median()? / runc)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit.symbol(),
            "vmrt": self.vmrt.json(),
            "runc": self.runc.as_ref().map(Samples::json),
            "ratio": self.ratio(),
        })
    }
}

/// What a row found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    pub(crate) measures: Vec<Measure>,
    /// What a reader should know beside the figures.
    pub(crate) notes: Vec<String>,
    /// What went wrong. A row with faults makes the bench fail.
    pub(crate) faults: Vec<String>,
}

impl Findings {
    pub(crate) fn of(measures: Vec<Measure>) -> Self {
        Self { measures, ..Self::default() }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// A row that was measured, or whose attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowReport {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) findings: Findings,
}

/// Everything of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) host: Host,
    pub(crate) rows: Vec<RowReport>,
}

impl Report {
    pub(crate) fn measure(&self, name: &str) -> Option<&Measure> {
        self.rows.iter().flat_map(|row| &row.findings.measures).find(|measure| measure.name == name)
    }

    /// Every fault, with the name of its row.
    pub(crate) fn faults(&self) -> Vec<String> {
        let of = |row: &RowReport| -> Vec<String> {
            row.findings.faults.iter().map(|fault| format!("{}: {fault}", row.name)).collect()
        };
        self.rows.iter().flat_map(of).collect()
    }

    fn json(&self) -> Value {
        let row = |row: &RowReport| {
            json!({
                "name": row.name,
                "title": row.title,
                "measures": row.findings.measures.iter().map(Measure::json).collect::<Vec<_>>(),
                "notes": row.findings.notes,
                "faults": row.findings.faults,
            })
        };
        json!({
            "version": 1,
            "host": self.host.json(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        write(path, &format!("{:#}\n", self.json()))
    }
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .map_err(|source| Failure::io(format!("write {}", path.display()), source))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with one row of every kind.
    pub(crate) fn sample() -> Report {
        let timed = |values: [f64; 3], cpu| Samples { values: values.into(), cpu: vec![cpu; 3] };
        let start = Findings::of(vec![
            Measure::compared(
                "start",
                Unit::Milliseconds,
                [timed([120.0, 110.0, 130.0], 90.0), timed([100.0, 90.0, 105.0], 80.0)],
            ),
            Measure::alone("phase share", Unit::Milliseconds, vec![20.0]),
            Measure::alone("phase <clone>", Unit::Milliseconds, vec![60.0]),
        ]);
        let stdio = Measure::compared(
            "stdio",
            Unit::MegabytesPerSecond,
            [Samples::of(vec![50.0]), Samples::of(vec![1000.0])],
        );
        let memory = Measure::alone("shim_pss", Unit::Kibibytes, vec![2600.0]);
        let network = Findings::default().note("not available: because");
        let mut broken = Findings::default();
        broken.faults.push("it broke".into());
        let row = |name, findings| RowReport { name, title: "what it is", findings };
        Report {
            host: Host::default(),
            rows: vec![
                row("start", start),
                row("stdio", Findings::of(vec![stdio])),
                row("memory", Findings::of(vec![memory])),
                row("network", network),
                row("exec", broken),
            ],
        }
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let report = sample();
        assert_eq!(report.measure("start").unwrap().ratio(), Some(1.2));
        assert_eq!(report.measure("shim_pss").unwrap().ratio(), None);
        assert_eq!(report.measure("nothing"), None);
    }

    #[test]
    fn json_has_the_raw_samples_and_the_faults() {
        let json = sample().json();
        let start = &json["rows"][0]["measures"][0];
        assert_eq!(start["vmrt"]["samples"], json!([120.0, 110.0, 130.0]));
        assert_eq!(start["vmrt"]["median"], json!(120.0));
        assert_eq!(start["runc"]["cpu_ms_median"], json!(80.0));
        assert_eq!(json["rows"][4]["faults"][0], json!("it broke"));
        assert_eq!(json["rows"][2]["measures"][0]["runc"], Value::Null);
        assert_eq!(sample().faults(), ["exec: it broke"]);
    }
}
