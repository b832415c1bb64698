//! What the shim needs from whoever puts the program together.

use std::path::Path;
use std::sync::Arc;

use runtime_api::{ContainerId, Result, Runtime, SandboxId};

/// The runtime behind the shim.
pub trait Backend: Send + Sync + 'static {
    /// Finds out whether [`open`](Self::open) can succeed, while the daemon still listens: `start`
    /// reports what is wrong, whereas the server can only log it.
    ///
    /// # Errors
    /// What is wrong, usually with the configuration.
    fn check(&self) -> Result<()>;

    /// Opens the runtime, inside the executor that will serve it. `state_dir` exists, is private to
    /// the servers of one `namespace` of one daemon, and outlives the runtime.
    ///
    /// # Errors
    /// What keeps the runtime from opening.
    fn open(&self, state_dir: &Path, namespace: &str) -> Result<Arc<dyn Runtime>>;

    /// Removes what a container has left behind, with its sandbox unless that lives on with other
    /// containers. It is called in a process of its own, and must be idempotent.
    ///
    /// # Errors
    /// What stays behind.
    fn cleanup(&self, state_dir: &Path, abandoned: &Abandoned) -> Result<()>;
}

/// A container that its daemon is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The container.
    pub container: ContainerId,
    /// The sandbox it belongs to.
    pub sandbox: SandboxId,
}
