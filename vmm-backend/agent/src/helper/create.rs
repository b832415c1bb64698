//! The init process of a container.
//!
//! ```text
//!   request ─► namespaces ─► cgroup ─► root filesystem ─► process ─► done ─► start ─► execve(2)
//!                  └─ in the child, where the helper is no cradle ──►
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::ForkResult;
use runtime_api::{Error, ErrorKind, Result, ResultExt};

use super::console::Console;
use super::protocol::{Channel, Confinement, Create, Reply};
use super::rootfs::Rootfs;
use super::seccomp::Filter;
use super::spec::{self, Spec};
use super::{Place, calls, limits, namespaces, program, streams};
use crate::cgroup::Cgroup;

/// How the process of a helper ends that does not become the init process.
pub(super) enum Outcome {
    /// A child goes on, or another helper will.
    Left,
    /// The agent does not want the container started.
    Unwanted,
}

/// Makes the init process, answers, and becomes its program when that is started.
pub(super) fn create(
    request: &Create,
    fds: Vec<OwnedFd>,
    channel: &Channel,
    place: &Place,
) -> Result<Outcome> {
    let document = spec::load(&request.bundle)?;
    let spec = Spec::parse(&document)?;
    check(&spec, request)?;
    if matches!(place, Place::Cradle(_)) && !namespaces::suit_a_cradle(&spec.linux) {
        channel.send_reply(&Reply::Unsuited, &[])?;
        return Ok(Outcome::Left);
    }
    // A terminal comes from the container itself.
    let streams = if request.terminal { None } else { Some(streams(fds)?) };
    let cgroup = find_cgroup(&spec, request, place);
    channel.send_reply(&Reply::Joining { cgroup: cgroup.path.clone() }, &[])?;
    let cgroup = cgroup.limit(&spec)?;
    program::set_oom_score(&spec.process)?;
    match place {
        Place::Cradle(_) => namespaces::complete(&spec.linux)?,
        Place::Guest(alone) => {
            namespaces::enter(&spec.linux, alone)?;
            let forked = alone.fork().internal(|| "fork the init process")?;
            if let ForkResult::Parent { child } = forked {
                channel.send_reply(&Reply::Born { pid: child.as_raw() }, &[])?;
                return Ok(Outcome::Left);
            }
        }
    }
    Init { spec: &spec, request, channel }.run(cgroup, streams)
}

/// Finds what is wrong before anything has been made.
fn check(spec: &Spec<'_>, request: &Create) -> Result<()> {
    if spec.process.terminal != request.terminal {
        return Err(Error::invalid_argument(format!(
            "process.terminal is {}, but that of the streams is {}",
            spec.process.terminal, request.terminal
        )));
    }
    namespaces::check(spec)
}

/// What a cradle does before it has a request.
pub(super) fn settle(cgroup: &Path) -> Result<()> {
    namespaces::settle()?;
    join_cgroup(&mut open_cgroup(Cgroup::at(cgroup).directory())?)?;
    join_keyring()
}

/// The cgroup of a container.
struct ItsCgroup {
    path: PathBuf,
    /// Whether this process is in it, and the container's first process will be.
    joined: bool,
}

/// A cradle has a cgroup already, which is as good as any other in the same place.
fn find_cgroup(spec: &Spec<'_>, request: &Create, place: &Place) -> ItsCgroup {
    let named = match spec.linux.cgroup {
        Some(path) => PathBuf::from(path),
        None => Path::new("/").join(&request.id),
    };
    match place {
        Place::Cradle(own) if own.parent() == named.parent() => {
            ItsCgroup { path: own.clone(), joined: true }
        }
        _ => ItsCgroup { path: named, joined: false },
    }
}

impl ItsCgroup {
    /// Makes it if need be, with its limits, and answers the file to join it by.
    fn limit(self, spec: &Spec<'_>) -> Result<Option<File>> {
        let cgroup = Cgroup::at(&self.path);
        if !self.joined {
            cgroup.make()?;
        }
        if let Some(resources) = spec.linux.resources {
            limits::apply(resources, cgroup.directory())?;
        }
        if self.joined { Ok(None) } else { open_cgroup(cgroup.directory()).map(Some) }
    }
}

fn join_cgroup(processes: &mut File) -> Result<()> {
    processes.write_all(b"0").internal(|| "join the cgroup of the container")
}

/// Opens the file that a process joins a cgroup by.
pub(super) fn open_cgroup(directory: &Path) -> Result<File> {
    let file = directory.join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&file)
        .kind(ErrorKind::FailedPrecondition, || format!("open {}", file.display()))
}

/// The process that becomes the container's first one.
struct Init<'a> {
    spec: &'a Spec<'a>,
    request: &'a Create,
    channel: &'a Channel,
}

impl Init<'_> {
    fn run(self, cgroup: Option<File>, streams: Option<[OwnedFd; 3]>) -> Result<Outcome> {
        let Self { spec, channel, .. } = self;
        let (console, streams) = self.enter_container(cgroup, streams)?;
        let filter = spec.linux.seccomp.map(Filter::compile).transpose()?;
        // Before it is in force, perhaps.
        let saved = filter.as_ref().map(Filter::save).transpose()?;
        let ready = program::prepare(&spec.process, streams, filter.as_ref())?;
        let confinement = Confinement {
            has_user_namespace: spec.linux.namespace(CloneFlags::CLONE_NEWUSER).is_some(),
            has_filter: saved.is_some(),
        };
        let fds: Vec<&OwnedFd> = saved.iter().chain(&console).collect();
        channel.send_reply(&Reply::Done { pid: None, confinement }, &fds)?;
        drop((saved, console));
        if !channel.await_start().internal(|| "wait for the start")? {
            return Ok(Outcome::Unwanted);
        }
        match ready.run() {
            Ok(never) => match never {},
            Err(error) => fail_late(&error),
        }
    }

    /// From the guest into the container: its cgroup, its names, its root.
    fn enter_container(
        &self,
        cgroup: Option<File>,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<(Option<OwnedFd>, [OwnedFd; 3])> {
        let Self { spec, request, .. } = *self;
        // What runs in a shared namespace must not look into this process.
        prctl::set_dumpable(false).internal(|| "make the init process undumpable")?;
        umask(Mode::empty());
        if let Some(mut cgroup) = cgroup {
            join_cgroup(&mut cgroup)?;
            join_keyring()?;
        }
        namespaces::enter_cgroup_namespace(&spec.linux)?;
        namespaces::furnish(spec)?;
        namespaces::set_kernel_parameters(&spec.linux)?;
        let rootfs = Rootfs::build(spec, &request.bundle).map_err(|error| self.describe(error))?;
        let (console, streams) = match streams {
            Some(streams) => {
                program::give_to(&streams, spec.process.user.uid)?;
                (None, streams)
            }
            None => {
                let console = Console::open(rootfs.root(), &spec.process)?;
                console.show(rootfs.root())?;
                let (streams, master) = console.split()?;
                (Some(master), streams)
            }
        };
        rootfs
            .protect(spec)
            .and_then(|()| rootfs.enter(spec))
            .map_err(|error| self.describe(error))?;
        Ok((console, streams))
    }

    /// Says whose root filesystem it was.
    fn describe(&self, error: Error) -> Error {
        let kind = error.kind();
        Error::new(kind, format!("create container {}", self.request.id)).with_source(error)
    }
}

/// Nobody waits for an answer any more; what the process has for an error output is the container's.
fn fail_late(error: &Error) -> ! {
    log::error!("{}", error.chain());
    std::process::exit(255)
}

/// Keys of the guest are none of the container's.
fn join_keyring() -> Result<()> {
    match calls::join_session_keyring() {
        // A kernel without keys.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOSYS) => Ok(()),
        joined => joined.internal(|| "begin a session keyring"),
    }
}
