//! The one mapping of containerd's Task messages onto the [`Runtime`](runtime_api::Runtime) trait.
//!
//! Three transports use it: ttrpc between containerd and the shim, ttrpc between host and guest, and
//! the C table between a daemon and the library. [`convert`] is the only place that knows both
//! vocabularies, and it is pure; [`TaskServer`] answers messages with a runtime; [`TaskClient`] is a
//! runtime that sends messages.

mod method;
pub use method::Method;

pub mod convert;

mod metrics;
pub use metrics::CgroupVersion;

mod event;
pub use event::{event_envelope, event_of};

mod server;
pub use server::{Answer, TaskServer};

mod client;
pub use client::{TaskClient, Transport};

mod wire;
pub use wire::{TtrpcTransport, error_of, status_of, ttrpc_services};

pub use containerd_shim_protos::api as messages;
