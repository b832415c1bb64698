//! From the command line to the action.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{dup2_stdin, setsid};
use runtime_api::{Error, Result, ResultExt, SandboxId};

use crate::bootstrap::EVENTS_VARIABLE;
use crate::daemon::Daemon;
use crate::delete::delete;
use crate::flags::{Action, Flags};
use crate::publisher::Destination;
use crate::server::Service;
use crate::socket::SocketFile;
use crate::start::start;
use crate::state::StateDirectory;
use crate::{Backend, info, logging};

/// Is the whole program: does what the command line asks for, with `backend` as the runtime.
///
/// Standard output is the answer to the daemon and nothing else. Standard error stays empty on
/// success, because containerd reads both as one; on failure it gets one line.
pub fn run(backend: impl Backend) -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let failure = match answer(Arc::new(backend), arguments) {
        Ok(answer) => match io::stdout().write_all(&answer) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => Error::internal("write the answer to stdout").with_source(error),
        },
        Err(error) => error,
    };
    // Without standard error there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{}", failure.chain());
    ExitCode::FAILURE
}

fn answer(
    backend: Arc<dyn Backend>,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Vec<u8>> {
    let flags = Flags::parse(arguments)?;
    match flags.action {
        Action::Start => start(&*backend, &flags),
        Action::Delete => delete(backend, &flags),
        Action::Serve => serve(&*backend, &flags).map(|()| Vec::new()),
        Action::Info => info::info(),
        Action::Features => Ok(info::features()),
        Action::Version => Ok(info::version()),
    }
}

/// Serves the listener that `start` has left on standard input.
fn serve(backend: &dyn Backend, flags: &Flags) -> Result<()> {
    logging::init(flags);
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    let served = serve_sandbox(backend, flags);
    if let Err(error) = &served {
        log::error!("the server cannot run: {}", error.chain());
    }
    served
}

fn serve_sandbox(backend: &dyn Backend, flags: &Flags) -> Result<()> {
    let socket =
        flags.socket.clone().ok_or_else(|| Error::invalid_argument("-socket is missing"))?;
    let socket = SocketFile::of(socket);
    let listener = detach()?;
    let state = StateDirectory::hold(Daemon::of(flags).state_directory())?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .internal(|| "start the executor")?;
    let served = executor.block_on(async {
        let service = Service {
            runtime: backend.open(state.path(), &flags.namespace)?,
            sandbox: SandboxId::parse(flags.id.clone())?,
            destination: Destination {
                address: std::env::var(EVENTS_VARIABLE).unwrap_or_default(),
                namespace: flags.namespace.clone(),
            },
            socket,
        };
        service.run(listener).await
    });
    // What still runs belongs to calls that nobody waits for any more.
    executor.shutdown_background();
    state.release();
    served
}

/// Leaves the session of the daemon and takes the listener from standard input.
fn detach() -> Result<UnixListener> {
    let listener = io::stdin().as_fd().try_clone_to_owned().internal(|| "take the listener")?;
    let null = OpenOptions::new().read(true).open("/dev/null").internal(|| "open /dev/null")?;
    dup2_stdin(null).internal(|| "close standard input")?;
    setsid().internal(|| "leave the session of the daemon")?;
    raise_descriptor_limit();
    Ok(UnixListener::from(listener))
}

/// Every process of a pod needs up to six descriptors here; the usual soft limit of 1024, which is
/// kept for the sake of select(2), would be reached by a pod with many execs.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!("raise the limit of open files: {error}");
    }
}
