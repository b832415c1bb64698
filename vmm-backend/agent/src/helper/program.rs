//! Becoming the program of a container, for an init process and for an exec alike.
//!
//! ```text
//!   session, streams, limits ─► directory, user, capabilities ─► Ready ─► filter, execve(2)
//! ```
//!
//! With no_new_privileges the filter comes last, so that it need not allow what is done here.
//! Without, loading it takes a capability that is about to go.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchown, getcwd, setgroups,
    setresgid, setresuid, setsid,
};
use runtime_api::{Error, Result, ResultExt};

use super::payload;
use super::seccomp::Filter;
use super::spec::Process;
use crate::sys;

/// The mask of files of a process that has not asked for another one.
const UMASK: u32 = 0o022;

/// A process that has taken everything on and only has to run the program.
pub(super) struct Ready<'a> {
    name: &'a str,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// To be loaded still.
    filter: Option<&'a Filter>,
}

/// Makes the calling process one that `process` describes. It is in the container already.
pub(super) fn prepare<'a>(
    process: &'a Process,
    streams: [OwnedFd; 3],
    filter: Option<&'a Filter>,
) -> Result<Ready<'a>> {
    sys::unlock_memory().internal(|| "unlock the memory of the helper")?;
    setsid().internal(|| "begin a session")?;
    take_streams(process, streams).internal(|| "take over the streams")?;
    umask(Mode::from_bits_truncate(process.user.umask.unwrap_or(UMASK)));
    for limit in &process.limits {
        setrlimit(limit.resource, limit.soft, limit.hard).internal(|| {
            format!("set {:?} to {} and {}", limit.resource, limit.soft, limit.hard)
        })?;
    }
    let mut filter = filter;
    if process.no_new_privileges {
        prctl::set_no_new_privs().internal(|| "set no_new_privs")?;
    } else if let Some(filter) = filter.take() {
        filter.load()?;
    }
    let entered = enter_directory(process);
    change_user(process).internal(|| format!("become user {}", process.user.uid))?;
    // Some directories are open to the user only, and others to root only.
    entered.or_else(|_| enter_directory(process))?;
    let program = payload::find(&process.args, &process.env)?;
    let env = payload::environment(process);
    let list = |strings: &[String]| -> io::Result<Vec<CString>> {
        strings.iter().map(|string| Ok(CString::new(string.as_bytes())?)).collect()
    };
    let invalid = |error: io::Error| {
        Error::invalid_argument("process.args or process.env").with_source(error)
    };
    Ok(Ready {
        name: &process.args[0],
        path: CString::new(program.as_os_str().as_bytes())
            .map_err(|error| invalid(error.into()))?,
        args: list(&process.args).map_err(invalid)?,
        env: list(&env).map_err(invalid)?,
        filter,
    })
}

impl Ready<'_> {
    /// Runs the program, in the place of this process.
    pub(super) fn run(self) -> Result<Infallible> {
        let start = || -> io::Result<()> {
            sys::restore_sigpipe()?;
            sys::close_the_rest_on_exec()
        };
        start().internal(|| "leave nothing of the helper")?;
        if let Some(filter) = self.filter {
            filter.load()?;
        }
        match execve(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(error) => Err(payload::refused(self.name, error)),
        }
    }
}

fn take_streams(process: &Process, [stdin, stdout, stderr]: [OwnedFd; 3]) -> io::Result<()> {
    if process.terminal {
        sys::set_controlling_terminal(&stdin)?;
    }
    dup2_stdin(&stdin)?;
    dup2_stdout(&stdout)?;
    Ok(dup2_stderr(&stderr)?)
}

fn enter_directory(process: &Process) -> Result<()> {
    // getcwd(2) fails outside of the root.
    chdir(&process.cwd).and_then(|()| getcwd()).map(drop).map_err(|error| {
        let message = format!("chdir to cwd {:?}: {}", process.cwd, payload::lower(error));
        Error::invalid_argument(message)
    })
}

fn change_user(process: &Process) -> io::Result<()> {
    let user = &process.user;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    process.capabilities.narrow()?;
    setgroups(&user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect::<Vec<_>>())?;
    setresgid(gid, gid, gid)?;
    prctl::set_keepcaps(true)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)?;
    process.capabilities.take()
}

/// Lets the user of a process open its streams again (`/dev/stdout`).
pub(super) fn give_to(streams: &[OwnedFd; 3], uid: u32) -> Result<()> {
    for stream in streams {
        let status = nix::sys::stat::fstat(stream).internal(|| "stat a stream")?;
        // The null device is everybody's.
        if status.st_mode & libc::S_IFMT == libc::S_IFIFO {
            match fchown(stream, Some(Uid::from_raw(uid)), None) {
                // In a user namespace that does not know its owner. Open it is all the same.
                Err(Errno::EPERM) => {}
                given => given.internal(|| format!("give a stream to user {uid}"))?,
            }
        }
    }
    Ok(())
}

/// Sets how readily the kernel kills this process; what it inherits would make it unkillable.
pub(super) fn set_oom_score(process: &Process) -> Result<()> {
    let score = process.oom_score_adj.unwrap_or(0);
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .internal(|| format!("write {score} to /proc/self/oom_score_adj"))
}
