//! An additional process of a container.
//!
//! ```text
//!   helper ── join the namespaces ── fork ──► cgroup, session, streams, user, filter, execve(2)
//!      └───────────── waits until that has happened or a reason is told ◄──────┘
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, pipe2};
use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde_json::Value;

use super::console::Console;
use super::create::open_cgroup;
use super::protocol::{Exec, Reply};
use super::root::Root;
use super::seccomp::Filter;
use super::spec::{Object, Process};
use super::{Made, program, streams};
use crate::cgroup::cgroup_directory;
use crate::sys::SingleThread;

/// Every namespace that is joined always; to join one's own again changes nothing.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWCGROUP)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID);

pub(super) fn exec(request: &Exec, fds: Vec<OwnedFd>, alone: &SingleThread) -> Result<Made> {
    let process: Value = serde_json::from_str(&request.process)
        .kind(ErrorKind::InvalidArgument, || "parse the process")?;
    let process = Process::parse(Object::of(&process, "process")?)?;
    let mut fds = fds.into_iter();
    let missing = || Error::internal("a descriptor is missing from the request for an exec");
    let init = fds.next().ok_or_else(missing)?;
    let filter = match request.confinement.has_filter {
        true => Some(Filter::restore(fds.next().ok_or_else(missing)?)?),
        false => None,
    };
    let cgroup = open_cgroup(&cgroup_directory(&request.cgroup))?;
    program::set_oom_score(&process)?;
    // What runs in the container must not look into this process once it is there.
    prctl::set_dumpable(false).internal(|| "make the helper undumpable")?;
    let mut joined = NAMESPACES;
    // One's own user namespace cannot be joined again.
    joined.set(CloneFlags::CLONE_NEWUSER, request.confinement.has_user_namespace);
    setns(&init, joined).map_err(|error| match error {
        Errno::ESRCH => Error::failed_precondition("the container has stopped"),
        error => Error::internal("join the namespaces of the container").with_source(error),
    })?;
    let (console, streams) = match request.terminal {
        true => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = open("/", flags, Mode::empty()).internal(|| "open the container's root")?;
            let (streams, master) = Console::open(&Root::from(root), &process)?.split()?;
            (Some(master), streams)
        }
        false => {
            let streams = streams(fds.collect())?;
            program::give_to(&streams, process.user.uid)?;
            (None, streams)
        }
    };
    let pid = spawn(&process, filter.as_ref(), alone, cgroup, streams)?;
    Ok(Made { pid, console })
}

/// Forks into the joined pid namespace and waits until the program runs.
fn spawn(
    process: &Process,
    filter: Option<&Filter>,
    alone: &SingleThread,
    cgroup: File,
    streams: [OwnedFd; 3],
) -> Result<i32> {
    // Closed by execve(2), or by the end of the child, which writes its reason before.
    let (started, starting) = pipe2(OFlag::O_CLOEXEC).internal(|| "make a pipe")?;
    match alone.fork().internal(|| "fork into the container")? {
        ForkResult::Parent { child } => {
            drop((starting, streams));
            let mut reason = Vec::new();
            File::from(started)
                .read_to_end(&mut reason)
                .internal(|| "wait for the start of a process")?;
            if reason.is_empty() {
                return Ok(child.as_raw());
            }
            match serde_json::from_slice(&reason).internal(|| "read why a process failed")? {
                Reply::Failed { fault, message } => Err(Error::new(fault.kind(), message)),
                other => Err(Error::internal(format!("a process said {other:?}"))),
            }
        }
        ForkResult::Child => {
            let Err(error) = become_program(process, filter, cgroup, streams);
            let reason = serde_json::to_vec(&Reply::failed(&error)).unwrap_or_default();
            // Nobody is left to tell when this fails.
            let _ = File::from(starting).write_all(&reason);
            std::process::exit(255);
        }
    }
}

fn become_program(
    process: &Process,
    filter: Option<&Filter>,
    mut cgroup: File,
    streams: [OwnedFd; 3],
) -> Result<Infallible> {
    cgroup.write_all(b"0").internal(|| "join the cgroup of the container")?;
    drop(cgroup);
    program::prepare(process, streams, filter)?.run()
}
