//! What there is: sandboxes and containers, by their names.

use std::collections::HashMap;
use std::sync::Arc;

use runtime_api::{ContainerId, Error, Key, Result, SandboxId};

use crate::container::Container;
use crate::sandbox::Sandbox;

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) sandboxes: HashMap<SandboxId, Arc<Sandbox>>,
    pub(crate) containers: HashMap<ContainerId, Arc<Container>>,
    /// The same containers by key.
    pub(crate) keys: HashMap<Key, Arc<Container>>,
    last_key: u64,
}

impl Registry {
    pub(crate) fn new_key(&mut self) -> Result<Key> {
        self.last_key += 1;
        Key::new(self.last_key).ok_or_else(|| Error::internal("the keys have run out"))
    }

    pub(crate) fn insert(&mut self, container: Arc<Container>) {
        container.sandbox.members.add(&container);
        self.keys.insert(container.key, Arc::clone(&container));
        self.containers.insert(container.id.clone(), container);
    }

    /// A sandbox by its id.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes.get(id).cloned();
        found.ok_or_else(|| Error::not_found(format!("sandbox {id}")))
    }

    pub(crate) fn has_containers(&self, sandbox: &Sandbox) -> bool {
        self.containers.values().any(|container| container.sandbox.id == sandbox.id)
    }
}
