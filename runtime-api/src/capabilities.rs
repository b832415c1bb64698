//! What a runtime can do, as data.

/// The abilities of a runtime; an operation without its ability answers `Unimplemented`.
///
/// Tests select their cases by these, never by the name of a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// [`exec`](crate::Runtime::exec) and what follows from it.
    pub exec: bool,
    /// Pseudo terminals and [`resize_pty`](crate::Runtime::resize_pty).
    pub terminal: bool,
    /// [`pause`](crate::Runtime::pause) and [`resume`](crate::Runtime::resume).
    pub pause: bool,
    /// [`update`](crate::Runtime::update).
    pub update: bool,
    /// [`stats`](crate::Runtime::stats).
    pub stats: bool,
    /// [`create_sandbox`](crate::Runtime::create_sandbox) apart from a container, and several
    /// containers in one sandbox.
    pub sandbox: bool,
    /// [`attach`](crate::Runtime::attach).
    pub attach: bool,
    /// [`dial`](crate::Runtime::dial).
    pub dial: bool,
    /// [`checkpoint`](crate::Runtime::checkpoint).
    pub checkpoint: bool,
}
