//! Both services on one connection after the other.

use std::sync::Arc;

use guest_api::create_guest;
use runtime_api::{Result, ResultExt, Runtime};
use runtime_task::{TaskServer, ttrpc_services};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::gate::Gate;
use crate::guest::GuestService;
use crate::{LinuxRuntime, port, sys};

/// Serves the Task service and the guest-only service over the virtio-serial port, until the guest
/// goes down.
///
/// # Errors
/// `NotFound` when there is no port; whatever keeps the runtime from working at all.
pub async fn over_port(runtime: Arc<LinuxRuntime>) -> Result<()> {
    let gate = Arc::new(Gate::default());
    let tasks = TaskServer::new(Arc::clone(&runtime) as Arc<dyn Runtime>);
    let guest = GuestService::new(Arc::clone(&runtime), Arc::clone(&gate))?;
    let (bulletin, events) = (Arc::clone(guest.bulletin()), runtime.events()?);
    tokio::spawn(async move { bulletin.collect(events).await });
    let guest = create_guest(Arc::new(guest));
    sys::keep_resident();
    // Busy containers must not delay an answer, nor must the one that an answer is about. Helpers
    // choose their own priority, which is that of containers.
    sys::set_niceness(-20).internal(|| "raise the priority of the agent")?;
    // To open the port is to be ready: a template is saved then.
    let incoming = port::listen(guest_api::PORT_NAME).await?;
    let mut server = Server::new()
        .add_listener(Listener::new(incoming))
        .register_service(gate.guard(ttrpc_services(tasks)))
        .register_service(gate.guard(guest));
    server.start().await.internal(|| "start the server of the port")?;
    runtime.run().await
}
