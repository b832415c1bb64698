//! What can be measured. A row more is a file, or an entry of a file, and an entry here.

mod data;
mod density;
mod library;
mod life;
mod memory;
mod network;
mod parallel;
mod rpc;

use crate::bench::Bench;
use crate::failure::Failure;
use crate::report::Findings;

/// Something to measure.
pub(crate) struct Row {
    /// How it is chosen.
    pub(crate) name: &'static str,
    /// What it measures, for people.
    pub(crate) title: &'static str,
    /// How the names of its measures begin.
    pub(crate) measures: &'static [&'static str],
    pub(crate) measure: fn(&Bench) -> Result<Findings, Failure>,
}

/// All rows in their order.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    [
        life::ROWS,
        parallel::ROWS,
        rpc::ROWS,
        library::ROWS,
        data::ROWS,
        network::ROWS,
        memory::ROWS,
        density::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// The row that a measure comes from.
pub(crate) fn of_measure(name: &str) -> Option<&'static Row> {
    all().find(|row| row.measures.iter().any(|begin| name.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_one_row() {
        let names: Vec<_> = all().map(|row| row.name).collect();
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
        let begins: Vec<_> = all().flat_map(|row| row.measures).collect();
        for begin in &begins {
            let alike = begins.iter().filter(|other| other.starts_with(*begin)).count();
            assert_eq!(alike, 1, "{begin}");
        }
        assert_eq!(of_measure("parallel_20").map(|row| row.name), Some("parallel"));
    }
}
