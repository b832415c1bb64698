//! An additional process of a container.
//!
//! libcontainer can make one too, but forgets the container's seccomp filter, and takes its time.
//!
//! ```text
//!   helper ── join the namespaces ── fork ──► cgroup, session, streams, user, filter, exec(2)
//!      └───────────── waits until exec(2) has happened or a reason is told ◄──────┘
//! ```

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{capabilities, seccomp};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, getcwd, pipe2,
    setgroups, setresgid, setresuid, setsid,
};
use runtime_api::{Error, ErrorKind, Result, ResultExt};

use super::create::{give_to, load, reset_oom_score};
use super::protocol::Exec;
use super::{Made, findings, payload, streams};
use crate::cgroup::cgroup_directory;
use crate::sys::{self, SingleThread};

/// Every namespace that is joined always; to join one's own again changes nothing.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWCGROUP)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWPID);

pub(super) fn exec(request: &Exec, mut fds: Vec<OwnedFd>) -> Result<Made> {
    findings::listen()?;
    let process: Process = serde_json::from_str(&request.process)
        .kind(ErrorKind::InvalidArgument, || "parse the process")?;
    let spec = load(&request.bundle)?;
    if fds.is_empty() {
        return Err(Error::internal("no descriptor of the init process came with the request"));
    }
    let init = fds.remove(0);
    let cgroup = open_cgroup(&request.cgroup)?;
    match process.oom_score_adj() {
        Some(score) => fs::write("/proc/self/oom_score_adj", score.to_string())
            .internal(|| format!("write {score} to /proc/self/oom_score_adj"))?,
        None => reset_oom_score(),
    }
    let alone = SingleThread::verify().internal(|| "prepare to fork into the container")?;
    // What runs in the container must not look into this process once it is there.
    prctl::set_dumpable(false).internal(|| "make the helper undumpable")?;
    setns(&init, namespaces(&spec)).map_err(|error| match error {
        Errno::ESRCH => Error::failed_precondition("the container has stopped"),
        error => Error::internal("join the namespaces of the container").with_source(error),
    })?;
    let uid = Uid::from_raw(process.user().uid());
    let (streams, console) = match request.terminal {
        true => open_terminal(uid).internal(|| "open a terminal in the container")?,
        false => {
            let streams = streams(fds)?;
            give_to(&streams, uid.as_raw())?;
            (streams, None)
        }
    };
    let joiner = Joiner {
        process: &process,
        seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
        terminal: request.terminal,
    };
    let pid = joiner.spawn(alone, cgroup, streams)?;
    Ok(Made { pid, console })
}

fn open_cgroup(path: &Path) -> Result<File> {
    let file = cgroup_directory(path).join("cgroup.procs");
    OpenOptions::new()
        .write(true)
        .open(&file)
        .kind(ErrorKind::FailedPrecondition, || format!("open {}", file.display()))
}

fn namespaces(spec: &Spec) -> CloneFlags {
    let declared = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let user = |declared: &Vec<_>| {
        declared.iter().any(|namespace: &libcontainer::oci_spec::runtime::LinuxNamespace| {
            namespace.typ() == LinuxNamespaceType::User
        })
    };
    // One's own user namespace cannot be joined again.
    match declared.is_some_and(user) {
        true => NAMESPACES | CloneFlags::CLONE_NEWUSER,
        false => NAMESPACES,
    }
}

/// Opens a terminal of the container, whose mount namespace has been joined.
fn open_terminal(uid: Uid) -> io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = sys::open_peer(&master)?;
    fchown(&slave, Some(uid), None)?;
    let streams = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((streams, Some(OwnedFd::from(master))))
}

struct Joiner<'a> {
    process: &'a Process,
    seccomp: Option<&'a LinuxSeccomp>,
    terminal: bool,
}

impl Joiner<'_> {
    /// Forks into the joined pid namespace and waits until the program runs.
    fn spawn(&self, alone: SingleThread, cgroup: File, streams: [OwnedFd; 3]) -> Result<i32> {
        // Closed by exec(2), or by the end of the child.
        let (started, starting) = pipe2(OFlag::O_CLOEXEC).internal(|| "make a pipe")?;
        match alone.fork().internal(|| "fork into the container")? {
            ForkResult::Parent { child } => {
                drop((starting, streams));
                File::from(started)
                    .read_to_end(&mut Vec::new())
                    .internal(|| "wait for the start of a process")?;
                match findings::told() {
                    Some(error) => Err(error),
                    None => Ok(child.as_raw()),
                }
            }
            ForkResult::Child => {
                let Err(error) = self.become_program(cgroup, streams);
                findings::tell(&error);
                std::process::exit(255);
            }
        }
    }

    fn become_program(&self, mut cgroup: File, streams: [OwnedFd; 3]) -> Result<Infallible> {
        cgroup.write_all(b"0").internal(|| "join the cgroup of the container")?;
        drop(cgroup);
        setsid().internal(|| "begin a session")?;
        self.take_streams(streams).internal(|| "take over the streams")?;
        let user = self.process.user();
        if let Some(mask) = user.umask() {
            umask(Mode::from_bits_truncate(mask));
        }
        let syscall = create_syscall();
        for limit in self.process.rlimits().iter().flatten() {
            syscall
                .set_rlimit(limit)
                .map_err(|error| Error::internal("set a limit").with_source(error.to_string()))?;
        }
        let locked = self.process.no_new_privileges().unwrap_or(false);
        if locked {
            prctl::set_no_new_privs().internal(|| "set no_new_privs")?;
        } else {
            // Without that bit it takes a capability that is about to go.
            self.filter()?;
        }
        let entered = self.enter_directory();
        self.change_user().internal(|| format!("become user {}", user.uid()))?;
        if let Some(capabilities) = self.process.capabilities() {
            capabilities::reset_effective(&*syscall)
                .and_then(|()| capabilities::drop_privileges(capabilities, &*syscall))
                .map_err(|error| {
                    Error::internal("drop capabilities").with_source(error.to_string())
                })?;
        }
        // Some directories are open to the user only, and others to root only.
        entered.or_else(|_| self.enter_directory())?;
        let args = self.process.args().as_deref();
        let program = payload::find(args, self.process.env().as_deref())?;
        let env = payload::environment(self.process);
        if locked {
            self.filter()?;
        }
        match payload::run(&program, args.unwrap_or_default(), &env) {
            Ok(never) => match never {},
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Err(payload::refused(&program.to_string_lossy(), errno))
            }
        }
    }

    fn take_streams(&self, [stdin, stdout, stderr]: [OwnedFd; 3]) -> io::Result<()> {
        if self.terminal {
            sys::set_controlling_terminal(&stdin)?;
        }
        dup2_stdin(&stdin)?;
        dup2_stdout(&stdout)?;
        Ok(dup2_stderr(&stderr)?)
    }

    fn filter(&self) -> Result<()> {
        let Some(filter) = self.seccomp else { return Ok(()) };
        if seccomp::is_notify(filter) {
            return Err(Error::unimplemented("an exec under a seccomp filter that notifies"));
        }
        seccomp::initialize_seccomp(filter)
            .map(drop)
            .map_err(|error| Error::internal("load the seccomp filter").with_source(error))
    }

    fn enter_directory(&self) -> Result<()> {
        let cwd = self.process.cwd();
        // getcwd(2) fails outside of the root.
        chdir(cwd).and_then(|()| getcwd()).map(drop).map_err(|error| {
            let message = format!("chdir to cwd {cwd:?}: {}", payload::lower(error));
            Error::invalid_argument(message)
        })
    }

    fn change_user(&self) -> nix::Result<()> {
        let user = self.process.user();
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        let groups = user.additional_gids().iter().flatten();
        setgroups(&groups.map(|gid| Gid::from_raw(*gid)).collect::<Vec<_>>())?;
        setresgid(gid, gid, gid)?;
        prctl::set_keepcaps(true)?;
        setresuid(uid, uid, uid)?;
        prctl::set_keepcaps(false)
    }
}
