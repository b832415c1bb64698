//! The helper: this program again, as a short-lived child that may block and fork.
//!
//! ```text
//!   agent ── request, streams ──► helper ──┬─ create: libcontainer ──► init, waits for its start
//!         ◄─ joining, done/failed ─        ├─ exec:   setns, fork ───► the process, runs
//!                                          └─ update: cgroup files
//! ```
//!
//! The helper exits when it has answered; the process it leaves behind is inherited by PID 1.

mod create;
mod exec;
mod findings;
mod payload;
mod protocol;
mod update;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use libcontainer::oci_spec::runtime::Process;
use nix::unistd::{dup2_stdin, getpid};
use runtime_api::{Error, ErrorKind, Json, Result, ResultExt, Stdio};

pub(crate) use protocol::{Channel, Create, Exec, Reply, Request, Update};

/// The argument that makes this program a helper.
pub const ROLE: &str = "helper";

/// What a helper has made.
struct Made {
    pid: i32,
    console: Option<OwnedFd>,
}

/// Does what the request on standard input says and answers there.
#[must_use]
pub fn run() -> ExitCode {
    match take_channel().and_then(|channel| serve(&channel)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("helper {}: {}", getpid(), error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Moves the channel away from standard input, which belongs to the process that is to be made.
fn take_channel() -> Result<Channel> {
    let take = || -> io::Result<OwnedFd> {
        let channel = crate::sys::inherited_stdin();
        let moved = channel.try_clone()?;
        dup2_stdin(File::open("/dev/null")?)?;
        // Standard input stays open as /dev/null: the lowest numbers must not be used for others.
        std::mem::forget(channel);
        Ok(moved)
    };
    take().map(Channel::from).internal(|| "take over the channel of the agent")
}

fn serve(channel: &Channel) -> Result<()> {
    let (request, fds) = channel.receive_request()?;
    let made = match request {
        Request::Create(create) => create::create(&create, fds, channel),
        Request::Exec(exec) => exec::exec(&exec, fds),
        Request::Update(update) => update::update(&update).map(|()| Made { pid: 0, console: None }),
    };
    match made {
        Ok(made) => channel.send_reply(&Reply::Done { pid: made.pid }, made.console.as_ref()),
        Err(error) => channel.send_reply(&Reply::failed(&error), None),
    }
}

/// Finds what is wrong with the process of an exec before it is accepted.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_process(process: &Json, stdio: &Stdio) -> Result<()> {
    let process: Process = serde_json::from_slice(&process.0)
        .kind(ErrorKind::InvalidArgument, || "parse the process of an exec")?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid_argument("process.args of an exec is empty"));
    }
    if !process.cwd().is_absolute() {
        let cwd = process.cwd().display();
        return Err(Error::invalid_argument(format!("process.cwd {cwd} is not absolute")));
    }
    let terminal = process.terminal().unwrap_or(false);
    if terminal != stdio.terminal {
        let message = format!(
            "process.terminal is {terminal}, but that of the streams is {}",
            stdio.terminal
        );
        return Err(Error::invalid_argument(message));
    }
    Ok(())
}

/// Takes the three streams out of what came with a request.
fn streams(fds: Vec<OwnedFd>) -> Result<[OwnedFd; 3]> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| {
        Error::internal(format!("{} descriptors came for three streams", fds.len()))
    })
}
