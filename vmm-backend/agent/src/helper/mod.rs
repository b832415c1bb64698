//! The helper: this program again, as a child that may block and fork.
//!
//! ```text
//!   agent ── request, streams ──► cradle ──── create ──────────► is the init process, waits
//!                            └──► helper ──┬─ create: fork ────► init process, waits
//!         ◄─ joining, done/failed ─        ├─ exec:   fork ────► the process, runs
//!                                          └─ update: cgroup files
//! ```
//!
//! A cradle is a helper that has the namespaces of a container already, so that it becomes the init
//! process itself. Both kinds are started before they are needed, see `spares.rs`, and wait for one
//! request. A helper exits when it has answered; the process it leaves behind is inherited by PID 1.

mod calls;
mod capabilities;
mod console;
mod create;
mod devices;
mod exec;
mod limits;
mod mounts;
mod namespaces;
mod options;
mod payload;
mod program;
mod protocol;
mod root;
mod rootfs;
mod seccomp;
mod spec;
mod update;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::unistd::{ForkResult, dup2_stdin, getpid, pipe};
use runtime_api::{Error, ErrorKind, Json, Result, ResultExt, Stdio};

use crate::cgroup::{self, Cgroup};
use crate::sys::{self, SingleThread};

pub(crate) use protocol::{Channel, Confinement, Create, Exec, Reply, Request, Update};

/// Which kind of helper this program is, by its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Does anything, from the guest's namespaces.
    Helper,
    /// Makes a container, in the namespaces that it has for that already.
    Cradle,
}

impl Role {
    /// The argument that stands for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Helper => "helper",
            Self::Cradle => "cradle",
        }
    }

    /// The role that an argument stands for.
    #[must_use]
    pub fn parse(argument: &str) -> Option<Self> {
        [Self::Helper, Self::Cradle].into_iter().find(|role| role.name() == argument)
    }
}

/// Where the process of a helper is.
enum Place {
    /// In the guest's namespaces, where it may fork.
    Guest(SingleThread),
    /// In new ones for a container, as their first process, and in the cgroup of this path.
    Cradle(PathBuf),
}

/// What a helper has made.
struct Made {
    pid: i32,
    console: Option<OwnedFd>,
}

/// Waits for the request on standard input, does what it says and answers there.
#[must_use]
pub fn run(role: Role) -> ExitCode {
    match take_channel().and_then(|channel| wait_and_serve(role, &channel)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{} {}: {}", role.name(), getpid(), error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Moves the channel away from standard input, which belongs to the process that is to be made.
fn take_channel() -> Result<Channel> {
    let take = || -> io::Result<OwnedFd> {
        let channel = sys::inherited_stdin();
        let moved = channel.try_clone()?;
        dup2_stdin(File::open("/dev/null")?)?;
        // Standard input stays open as /dev/null: the lowest numbers must not be used for others.
        std::mem::forget(channel);
        Ok(moved)
    };
    take().map(Channel::from).internal(|| "take over the channel of the agent")
}

fn wait_and_serve(role: Role, channel: &Channel) -> Result<()> {
    prctl::set_name(c"vmrt-spare").internal(|| "name a helper")?;
    // Preparing is for later, and others have work to do now.
    sys::set_niceness(19).internal(|| "lower the priority of a helper")?;
    let alone = SingleThread::verify().internal(|| "prepare to fork")?;
    let place = match role {
        Role::Helper => Place::Guest(alone),
        Role::Cradle => {
            let cgroup = cgroup::of_cradle(getpid());
            Cgroup::at(&cgroup).make()?;
            namespaces::prepare_cradle()?;
            let (settled, settling) = pipe().internal(|| "make a pipe")?;
            if let ForkResult::Parent { child } = alone.fork().internal(|| "fork into a cradle")? {
                drop(settling);
                // Before that it is no spare: what happens to the guest's mounts must find it settled.
                let told = File::from(settled).read_exact(&mut [0]);
                told.internal(|| "wait for a cradle to settle")?;
                return channel.send_reply(&Reply::Born { pid: child.as_raw() }, &[]);
            }
            drop(settled);
            create::settle(&cgroup)?;
            let told = File::from(settling).write_all(b"s");
            told.internal(|| "tell that a cradle has settled")?;
            Place::Cradle(cgroup)
        }
    };
    sys::keep_resident();
    // Who waits for the answer to a request waits for this process.
    sys::set_niceness(0).internal(|| "raise the priority of a helper")?;
    let Some((request, fds)) = channel.receive_request()? else { return Ok(()) };
    prctl::set_name(c"vmrt-helper").internal(|| "name a helper")?;
    serve(request, fds, channel, &place)
}

fn serve(request: Request, fds: Vec<OwnedFd>, channel: &Channel, place: &Place) -> Result<()> {
    let made = match (request, place) {
        (Request::Create(create), _) => match create::create(&create, fds, channel, place) {
            Ok(create::Outcome::Left | create::Outcome::Unwanted) => return Ok(()),
            Err(error) => Err(error),
        },
        (Request::Exec(exec), Place::Guest(alone)) => exec::exec(&exec, fds, alone),
        (Request::Update(update), Place::Guest(_)) => {
            update::update(&update).map(|()| Made { pid: 0, console: None })
        }
        (_, Place::Cradle(_)) => return channel.send_reply(&Reply::Unsuited, &[]),
    };
    match made {
        Ok(Made { pid, console }) => {
            let confinement = Confinement::default();
            let fds: Vec<&OwnedFd> = console.iter().collect();
            channel.send_reply(&Reply::Done { pid: Some(pid), confinement }, &fds)
        }
        Err(error) => channel.send_reply(&Reply::failed(&error), &[]),
    }
}

/// Finds what is wrong with the process of an exec before it is accepted.
///
/// # Errors
/// `InvalidArgument`; `Unimplemented` for what cannot be honoured.
pub(crate) fn check_process(process: &Json, stdio: &Stdio) -> Result<()> {
    let process: serde_json::Value = serde_json::from_slice(&process.0)
        .kind(ErrorKind::InvalidArgument, || "parse the process of an exec")?;
    let process = spec::Process::parse(spec::Object::of(&process, "process")?)?;
    if process.terminal != stdio.terminal {
        let message = format!(
            "process.terminal is {}, but that of the streams is {}",
            process.terminal, stdio.terminal
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
