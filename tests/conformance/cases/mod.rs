//! The cases, by what they are about.

mod confine;
mod errors;
mod events;
mod exec;
mod freeze;
mod life;
mod limits;
mod sandbox;
mod signals;
mod streams;
mod terminal;

use crate::case::Case;

pub(crate) fn all() -> Vec<Case> {
    [
        life::CASES,
        errors::CASES,
        events::CASES,
        signals::CASES,
        exec::CASES,
        streams::CASES,
        terminal::CASES,
        freeze::CASES,
        limits::CASES,
        confine::CASES,
        sandbox::CASES,
    ]
    .concat()
}
