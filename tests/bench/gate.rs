//! Limits that a change must not exceed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;
use crate::report::{Measure, Report, Unit};

/// The limits by the names of measures; see gate.toml.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gate {
    /// vmrt's median over runc's.
    ratio: BTreeMap<String, f64>,
    /// Medians in KiB.
    kib: BTreeMap<String, f64>,
}

impl Gate {
    /// Reads the limits.
    ///
    /// # Errors
    /// When the file cannot be read, or has a key that is none.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path)
            .map_err(|source| Failure::io(format!("read {}", path.display()), source))?;
        toml::from_str(&text)
            .map_err(|error| Failure::Unexpected(format!("{}: {error}", path.display())))
    }

    /// What exceeds its limit, a line each. What was to be measured and has no figure does too;
    /// `wanted` tells whether the run was to have a measure.
    pub(crate) fn exceeded(&self, report: &Report, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let ratio = |measure: &Measure| match measure.unit.is_rate() {
            true => Err("is a rate: a limit on its ratio makes no sense".to_owned()),
            false => Ok(measure.ratio()),
        };
        let kib = |measure: &Measure| match measure.unit {
            Unit::Kibibytes => Ok(measure.vmrt.median()),
            other => Err(format!("is in {}, not in KiB", other.symbol())),
        };
        let ratios = self
            .ratio
            .iter()
            .map(|(name, limit)| (name, *limit, "times runc", report.measure(name).map(ratio)));
        let sizes = self
            .kib
            .iter()
            .map(|(name, limit)| (name, *limit, "KiB", report.measure(name).map(kib)));
        ratios
            .chain(sizes)
            .filter(|(name, ..)| wanted(name))
            .filter_map(|(name, limit, unit, measured)| match measured {
                Some(Ok(Some(value))) if value <= limit => None,
                Some(Ok(Some(value))) => {
                    Some(format!("{name}: {value:.2} {unit}, the limit is {limit:.2}"))
                }
                Some(Err(wrong)) => Some(format!("{name} {wrong}")),
                Some(Ok(None)) | None => {
                    Some(format!("{name}: not measured, the limit is {limit:.2} {unit}"))
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn exceeded(text: &str) -> Vec<String> {
        toml::from_str::<Gate>(text).unwrap().exceeded(&sample(), |_| true)
    }

    #[test]
    fn what_is_within_its_limit_is_not_named() {
        assert_eq!(exceeded("ratio.start = 1.2\nkib.shim_pss = 2600"), Vec::<String>::new());
    }

    #[test]
    fn what_exceeds_its_limit_is_named_with_both_figures() {
        let lines = exceeded("ratio.start = 1.1\nkib.shim_pss = 2000");
        assert_eq!(
            lines,
            [
                "start: 1.20 times runc, the limit is 1.10",
                "shim_pss: 2600.00 KiB, the limit is 2000.00"
            ]
        );
    }

    #[test]
    fn what_has_no_figure_exceeds_its_limit_unless_nobody_asked_for_it() {
        assert_eq!(
            exceeded("ratio.exec = 3"),
            ["exec: not measured, the limit is 3.00 times runc"]
        );
        let gate: Gate = toml::from_str("ratio.exec = 3").unwrap();
        assert_eq!(gate.exceeded(&sample(), |name| name != "exec"), Vec::<String>::new());
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_an_error() {
        assert_eq!(exceeded("ratio.stdio = 3")[0].split(':').next(), Some("stdio is a rate"));
        assert_eq!(exceeded("kib.start = 3"), ["start is in ms, not in KiB"]);
        assert!(toml::from_str::<Gate>("rato.start = 3").is_err());
    }

    #[test]
    fn the_checked_in_limits_are_on_measures_that_exist() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/gate.toml");
        let gate = Gate::read(&path).unwrap();
        for name in gate.ratio.keys().chain(gate.kib.keys()) {
            assert!(crate::rows::of_measure(name).is_some(), "no row measures {name}");
        }
        assert!(!gate.ratio.is_empty() && !gate.kib.is_empty());
    }
}
