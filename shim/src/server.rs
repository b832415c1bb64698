//! `serve`: the process that serves a sandbox.
//!
//! ```text
//!             first connection              Shutdown, and no sandbox left
//!   waiting ───────────────────► serving ──────────────────────────────────► leaving
//!      │                            │  SIGTERM: the sandbox is killed first       ▲
//!      └─ nobody comes ─────────────┴──────────────────────────────────────────────┘
//! ```

use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use runtime_api::{
    Error, ErrorKind, KillScope, ProcessRef, Result, ResultExt, Runtime, SandboxId, Signal,
};
use runtime_task::{TaskServer, ttrpc_services};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::connections::Connections;
use crate::publisher::{Destination, Publisher};
use crate::socket::SocketFile;

/// How long a daemon may take to connect for the first time. One that has asked for a server and
/// died right then never comes, and does not know of the server after its restart.
const FIRST_CONNECTION_DEADLINE: Duration = Duration::from_secs(60);

/// How long the sandbox may take to end after SIGTERM.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// How long the daemon may take for the events that are left. It waits three seconds for Shutdown.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// How long answers that are ready may take to be written. Calls of Wait that are pending would hold
/// the end up for as long as this.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(100);

/// What is served, and to whom.
pub(crate) struct Service {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sandbox: SandboxId,
    pub(crate) destination: Destination,
    pub(crate) socket: SocketFile,
}

/// Why a server leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Shutdown,
    Terminated,
    NobodyCame,
}

impl Service {
    /// Serves on `listener` until there is nothing left to serve.
    ///
    /// # Errors
    /// What keeps the service from beginning.
    pub(crate) async fn run(self, listener: StdListener) -> Result<()> {
        listener.set_nonblocking(true).internal(|| "prepare the listener")?;
        let listener = UnixListener::from_std(listener).internal(|| "watch the listener")?;
        let (connections, first) = Connections::of(listener);
        let (ask, mut asked) = unbounded_channel();
        let tasks = TaskServer::new(Arc::clone(&self.runtime)).on_shutdown(move || {
            let (settle, settled) = oneshot::channel();
            // Once the server leaves nobody listens, and the answer goes out at once.
            let _ = ask.send(settle);
            async move {
                let _: std::result::Result<(), _> = settled.await;
            }
        });
        let signals = Signals::watch()?;
        let publisher = Publisher::spawn(self.runtime.events()?, self.destination.clone());
        let mut server = Server::new()
            .add_listener(Listener::new(connections))
            .register_service(ttrpc_services(tasks));
        server.start().await.internal(|| "start the ttrpc server")?;
        log::info!("serving sandbox {}", self.sandbox);

        let reason = self.serve(signals, &mut asked, first).await;
        log::info!("leaving sandbox {}: {reason:?}", self.sandbox);
        self.remove_socket();
        drop(asked);
        if reason == Reason::Terminated {
            self.release().await;
        }
        publisher.flush(FLUSH_DEADLINE).await;
        let _ = timeout(GOODBYE_DEADLINE, server.shutdown()).await;
        Ok(())
    }

    async fn serve(
        &self,
        mut signals: Signals,
        shutdown: &mut UnboundedReceiver<oneshot::Sender<()>>,
        first: oneshot::Receiver<()>,
    ) -> Reason {
        let nobody_came = async {
            if timeout(FIRST_CONNECTION_DEADLINE, first).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(nobody_came);
        loop {
            tokio::select! {
                () = signals.terminate() => return Reason::Terminated,
                () = &mut nobody_came => return Reason::NobodyCame,
                Some(settle) = shutdown.recv() => if self.is_empty().await {
                    // Before the answer: a daemon that has it may ask for a new server at once.
                    self.remove_socket();
                    drop(settle);
                    return Reason::Shutdown;
                },
            }
        }
    }

    /// The socket goes first: who comes from now on starts a server of his own.
    fn remove_socket(&self) {
        if let Err(error) = self.socket.remove() {
            log::warn!("{}", error.chain());
        }
    }

    /// Shutdown comes for each container that is deleted, also while others live in the sandbox.
    async fn is_empty(&self) -> bool {
        match self.runtime.sandbox_status(&self.sandbox).await {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => {
                log::warn!("sandbox {} is kept: {}", self.sandbox, error.chain());
                false
            }
        }
    }

    /// Kills the sandbox with all that is in it. Its end is reported as any other.
    async fn release(&self) {
        let error = match timeout(RELEASE_DEADLINE, self.kill_sandbox()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::deadline_exceeded(format!("it took over {RELEASE_DEADLINE:?}")),
        };
        log::error!("release sandbox {}: {}", self.sandbox, error.chain());
    }

    async fn kill_sandbox(&self) -> Result<()> {
        let Some(status) = found(self.runtime.sandbox_status(&self.sandbox).await)? else {
            return Ok(());
        };
        // The container that stands for the sandbox was created first, and goes last.
        for container in status.containers.into_iter().rev() {
            let init = ProcessRef::init(container);
            found(self.runtime.kill(&init, Signal::KILL, KillScope::All).await)?;
            found(self.runtime.wait(&init).await)?;
            found(self.runtime.delete(&init).await)?;
        }
        found(self.runtime.delete_sandbox(&self.sandbox).await).map(drop)
    }
}

/// What has gone by itself need not be removed.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn watch() -> Result<Self> {
        let watch = |kind| signal(kind).internal(|| "watch for signals");
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        })
    }

    async fn terminate(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
