//! The cases, by what they are about.

mod life;

use crate::case::Case;

pub(crate) fn all() -> Vec<Case> {
    [life::CASES].concat()
}
