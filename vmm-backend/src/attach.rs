//! Coming back to the containers of an earlier run.
//!
//! ```text
//!   token ─► known already? ─ yes ─────────────────────────────────────────► handle
//!              │ no                                                             ▲
//!              ▼                                                                │
//!            record of its sandbox ─► VMM ─► agent ─► each process: state, streams, wait
//!              │ the VMM has gone
//!              └──► remove what is left ─► NotFound
//! ```

use std::sync::Arc;

use runtime_api::{
    Error, ErrorKind, Handle, KillScope, ProcessRef, Result, SandboxId, Signal, Token,
};

use crate::cleanup::remove_dead;
use crate::container::Container;
use crate::layout::SandboxDirectory;
use crate::machine::Machine;
use crate::record::{ProcessRecord, Record};
use crate::runtime::Shared;
use crate::sandbox::Sandbox;
use crate::token::ContainerToken;
use crate::vmm::Lifetime;

impl Shared {
    /// The token of a container, if another run can come back to it.
    pub(crate) fn token(container: &Container) -> Token {
        match container.sandbox.vmm() {
            Some(vmm) if container.sandbox.survives => {
                let (sandbox, container) = (container.sandbox.id.clone(), container.id.clone());
                ContainerToken { sandbox, container, vmm }.write()
            }
            _ => Token::default(),
        }
    }

    /// Comes back to a container, and with it to all others of its sandbox.
    pub(crate) async fn attach(&self, token: Token) -> Result<Handle> {
        if self.host.lifetime == Lifetime::DiesWithOwner {
            return Err(Error::unimplemented("attach to a machine that dies with its owner"));
        }
        let token = ContainerToken::read(&token)?;
        if let Some(handle) = self.handle(&token) {
            return Ok(handle);
        }
        // Tokens of one sandbox may come together.
        let once = Arc::clone(self.attachments().entry(token.sandbox.clone()).or_default());
        let attached = once.get_or_try_init(|| self.attach_sandbox(&token.sandbox)).await;
        self.attachments().remove(&token.sandbox);
        attached?;
        self.handle(&token).ok_or_else(|| {
            let ContainerToken { container, sandbox, .. } = &token;
            Error::not_found(format!("container {container}: its sandbox {sandbox} is gone"))
        })
    }

    fn handle(&self, token: &ContainerToken) -> Option<Handle> {
        let registry = self.registry();
        let container = registry.containers.get(&token.container)?;
        let same =
            container.sandbox.id == token.sandbox && container.sandbox.vmm() == Some(token.vmm);
        same.then(|| Handle {
            container: container.id.clone(),
            key: Some(container.key),
            token: token.write(),
        })
    }

    async fn attach_sandbox(&self, id: &SandboxId) -> Result<()> {
        if self.registry().sandboxes.contains_key(id) {
            return Ok(());
        }
        let directory = SandboxDirectory::of(&self.host.state_dir, id);
        let Some(record) = Record::read(&directory.record())? else { return Ok(()) };
        let machine = match &record.machine {
            Some(machine) => Machine::attach(id, &directory, machine, &self.host.config).await?,
            None => None,
        };
        match (machine, record.machine) {
            (Some(machine), Some(left)) => {
                log::info!("phases of attaching to sandbox {id}: {}", machine.phases());
                let id = id.clone();
                let cgroup = record.cgroup;
                let sandbox =
                    Sandbox::taken_over(&self.host, id, directory, &left, cgroup, machine);
                self.take_over(Arc::new(sandbox)).await
            }
            _ => remove_dead(&directory),
        }
    }

    async fn take_over(&self, sandbox: Arc<Sandbox>) -> Result<()> {
        self.registry().sandboxes.insert(sandbox.id.clone(), Arc::clone(&sandbox));
        let (inits, execs): (Vec<_>, Vec<_>) =
            ProcessRecord::read_all(&sandbox.directory.processes())?
                .into_iter()
                .partition(|record| record.process.exec.is_none());
        for record in inits {
            let (process, events) = (record.process.clone(), Arc::clone(&self.events));
            let key = self.registry().new_key()?;
            let taken = match record.created {
                true => Container::take_over(record, key, Arc::clone(&sandbox), events).await,
                false => Err(cut_off(&process)),
            };
            match taken {
                Ok(container) => self.registry().insert(container),
                Err(error) => abandon(&sandbox, &process, &error).await?,
            }
        }
        for record in execs {
            let process = record.process.clone();
            let container = self.registry().containers.get(&process.container).cloned();
            let taken = match container {
                Some(container) if record.created => container.take_over_exec(record).await,
                Some(_) => Err(cut_off(&process)),
                None => Err(Error::not_found(format!("container {}", process.container))),
            };
            if let Err(error) = taken {
                abandon(&sandbox, &process, &error).await?;
            }
        }
        Ok(())
    }
}

fn cut_off(process: &ProcessRef) -> Error {
    Error::cancelled(format!("the creation of {process} was cut off"))
}

/// Removes what is left of a process that cannot be taken over.
async fn abandon(sandbox: &Sandbox, process: &ProcessRef, error: &Error) -> Result<()> {
    if error.kind() != ErrorKind::NotFound {
        log::error!("{process} of an earlier run: {}", error.chain());
        let machine = sandbox.machine().await?;
        let tasks = machine.guest().tasks();
        let _ = tasks.kill(process, Signal::KILL, KillScope::Process).await;
        let _ = tasks.delete(process).await;
    }
    sandbox.forget(process).await;
    match process.exec {
        None => sandbox.directory.container(&process.container).remove(),
        Some(_) => Ok(()),
    }
}
