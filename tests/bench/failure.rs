//! Why a row has no figures.

use std::io;
use std::time::Duration;

/// What kept a measurement from being made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A signal asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// A command ended with another code than 0.
    #[error("{command} ended with {code}: {said}")]
    Command { command: String, code: i32, said: String },
    /// A command was killed.
    #[error("{command} was killed at its deadline of {deadline:?}")]
    Deadline { command: String, deadline: Duration },
    /// The machine refused something.
    #[error("cannot {attempt}")]
    Io { attempt: String, source: io::Error },
    /// Something is not as it has to be.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    pub(crate) fn io(attempt: impl Into<String>, source: io::Error) -> Self {
        Self::Io { attempt: attempt.into(), source }
    }

    /// The failure and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}
