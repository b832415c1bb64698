//! The checked-in table of what the reference does in another way.

use serde::Deserialize;

use crate::target::Target;

/// The table; see its own head for what the columns mean.
const TABLE: &str = include_str!("differences.toml");
/// What a row names when the case as a whole cannot pass on the reference.
const OUTCOME: &str = "outcome";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Difference {
    pub(crate) case: String,
    pub(crate) what: String,
    /// What the reference does, as the suite prints it; `failed` for an outcome.
    pub(crate) reference: String,
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differences {
    #[serde(default)]
    pub(crate) difference: Vec<Difference>,
}

impl Difference {
    /// Whether it stands for a case that cannot pass as a whole.
    pub(crate) fn is_outcome(&self) -> bool {
        self.what == OUTCOME
    }
}

impl Differences {
    pub(crate) fn read() -> Self {
        toml::from_str(TABLE).unwrap_or_else(|error| panic!("differences.toml: {error}"))
    }

    /// What is listed for a case: observations with their values.
    pub(crate) fn values_of(&self, case: &str) -> Vec<(String, String)> {
        let ours = self.difference.iter().filter(|one| one.case == case);
        ours.map(|one| (one.what.clone(), one.reference.clone())).collect()
    }

    /// Whether it is listed that a case fails on a target.
    pub(crate) fn fails(&self, target: Target, case: &str) -> bool {
        let listed = |one: &Difference| one.case == case && one.is_outcome();
        target == Target::Reference && self.difference.iter().any(listed)
    }
}
