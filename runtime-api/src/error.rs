//! What can go wrong: the kinds that containerd keeps apart, and one more.

use std::error::Error as StdError;
use std::fmt;

/// The result of an operation of a [`Runtime`](crate::Runtime).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an [`Error`]; a caller decides by it, never by the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The sandbox, container or process is unknown, or is gone.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request itself is wrong; repeating it cannot succeed.
    InvalidArgument,
    /// The request is right, but not in this state.
    FailedPrecondition,
    /// The VM, its guest or a peer cannot be reached.
    Unavailable,
    /// This runtime does not have the operation.
    Unimplemented,
    /// The operation did not finish within its deadline.
    DeadlineExceeded,
    /// The caller, or a concurrent deletion, gave the operation up.
    Cancelled,
    /// Anything else: a failed system call, a broken invariant.
    Internal,
}

/// An error: its kind, one line that names the thing and the attempt, and where it came from.
///
/// `Display` gives the line without the source; [`Error::chain`] gives both.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($function:ident => $kind:ident),* $(,)?) => {$(
        #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
        pub fn $function(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )*};
}

impl Error {
    /// An error without a source.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    constructors! {
        not_found => NotFound,
        already_exists => AlreadyExists,
        invalid_argument => InvalidArgument,
        failed_precondition => FailedPrecondition,
        unavailable => Unavailable,
        unimplemented => Unimplemented,
        deadline_exceeded => DeadlineExceeded,
        cancelled => Cancelled,
        internal => Internal,
    }

    /// Adds where the error came from.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message and those of all its sources in one line, as a log or a wire shows it.
    pub fn chain(&self) -> String {
        let mut line = self.message.clone();
        let mut source = self.source();
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Gives a foreign error its kind and the name of what was tried.
pub trait ResultExt<T> {
    /// Wraps the error as [`ErrorKind::Internal`].
    ///
    /// # Errors
    /// The wrapped error.
    fn internal<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// Wraps the error as `kind`.
    ///
    /// # Errors
    /// The wrapped error.
    fn kind<M: Into<String>>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn internal<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.kind(ErrorKind::Internal, message)
    }

    fn kind<M: Into<String>>(self, kind: ErrorKind, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|source| Error::new(kind, message()).with_source(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_source_once() {
        let io = std::io::Error::other("disk on fire");
        let inner = Error::internal("write /run/x").with_source(io);
        let outer = Error::unavailable("create container a").with_source(inner);
        assert_eq!(outer.to_string(), "create container a");
        assert_eq!(outer.chain(), "create container a: write /run/x: disk on fire");
        assert_eq!(outer.kind(), ErrorKind::Unavailable);
    }
}
