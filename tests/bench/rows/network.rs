//! The network between a container and its host.

use crate::bench::Bench;
use crate::failure::Failure;
use crate::report::Findings;
use crate::rows::Row;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "network",
    title: "the network of a container",
    measures: &["network_"],
    measure: network,
}];

#[expect(clippy::unnecessary_wraps, reason = "as every row")]
fn network(_: &Bench) -> Result<Findings, Failure> {
    Ok(Findings::default().note("not available: networking is not built yet"))
}
