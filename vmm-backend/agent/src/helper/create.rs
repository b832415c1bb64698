//! The init process of a container, by libcontainer.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::unistd::{Uid, fchown};
use runtime_api::{Error, ErrorKind, Result, ResultExt};

use super::protocol::{Channel, Create, Reply};
use super::{Made, findings, payload, streams};
use crate::cgroup::Cgroup;

pub(super) fn create(request: &Create, fds: Vec<OwnedFd>, channel: &Channel) -> Result<Made> {
    findings::listen()?;
    let spec = load(&request.bundle)?;
    let process = check(&spec, &request.bundle)?;
    // What is relative in the specification is relative to the bundle.
    std::env::set_current_dir(&request.bundle)
        .internal(|| format!("enter {}", request.bundle.display()))?;
    let cgroup = cgroup_of(&spec, &request.id);
    channel.send_reply(&Reply::Joining { cgroup: cgroup.clone() }, None)?;
    // libcontainer makes it too, but stumbles when others make the same parents at that moment.
    Cgroup::at(&cgroup).make()?;
    if process.oom_score_adj().is_none() {
        reset_oom_score();
    }
    let mut builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_executor(Payload)
        .with_root_path(&request.state)
        .internal(|| format!("use {}", request.state.display()))?;
    let console = match request.terminal {
        true => Some(Console::listen(&request.state, &request.id)?),
        false => {
            let streams = streams(fds)?;
            give_to(&streams, process.user().uid())?;
            let [stdin, stdout, stderr] = streams;
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
            None
        }
    };
    let built = builder
        .with_console_socket(console.as_ref().map(|console| console.path.clone()))
        .as_init(&request.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build();
    let container = built.map_err(|error| {
        let attempt = format!("create container {}", request.id);
        findings::explain(&attempt, &process.cwd().to_string_lossy(), &error)
    })?;
    let pid = container
        .pid()
        .ok_or_else(|| Error::internal(format!("container {} has no init process", request.id)))?;
    let console = console.map(Console::receive).transpose()?;
    Ok(Made { pid: pid.as_raw(), console })
}

/// Reads `config.json` of a bundle.
pub(super) fn load(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("read {}", path.display())).with_source(error)
    })?;
    serde_json::from_slice(&text)
        .kind(ErrorKind::InvalidArgument, || format!("parse {}", path.display()))
}

/// Finds what is wrong and would be reported worse by those who stumble over it.
fn check<'a>(spec: &'a Spec, bundle: &Path) -> Result<&'a Process> {
    let invalid = |what: &str| {
        Error::invalid_argument(format!("{}: {what}", bundle.join("config.json").display()))
    };
    let root = spec.root().as_ref().ok_or_else(|| invalid("there is no root"))?;
    let root = bundle.join(root.path());
    if !root.is_dir() {
        return Err(Error::not_found(format!("root filesystem {}", root.display())));
    }
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().iter().flatten();
        let bound = mount.typ().as_deref() == Some("bind")
            || options.into_iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
        let Some(source) = mount.source().as_ref().filter(|_| bound) else { continue };
        if let Err(error) = fs::metadata(bundle.join(source)) {
            let error = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            return Err(Error::not_found(format!(
                "mount {}: source {}: {}",
                mount.destination().display(),
                source.display(),
                payload::lower(error)
            )));
        }
    }
    let process = spec.process().as_ref().ok_or_else(|| invalid("there is no process"))?;
    match process.args() {
        Some(args) if !args.is_empty() => Ok(process),
        _ => Err(invalid("process.args is empty")),
    }
}

/// The cgroup that libcontainer will use.
fn cgroup_of(spec: &Spec, id: &str) -> PathBuf {
    let named = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    libcontainer::utils::get_cgroup_path(&named, id)
}

/// The agent's own score, which children inherit, would make containers unkillable.
pub(super) fn reset_oom_score() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "0") {
        log::warn!("write 0 to /proc/self/oom_score_adj: {error}");
    }
}

/// Lets the user of a process open its streams again (`/dev/stdout`).
pub(super) fn give_to(streams: &[OwnedFd; 3], uid: u32) -> Result<()> {
    for stream in streams {
        let status = nix::sys::stat::fstat(stream).internal(|| "stat a stream")?;
        // The null device is everybody's.
        if status.st_mode & nix::libc::S_IFMT == nix::libc::S_IFIFO {
            fchown(stream, Some(Uid::from_raw(uid)), None)
                .internal(|| format!("give a stream to user {uid}"))?;
        }
    }
    Ok(())
}

/// Runs the program; libcontainer's own executor forgets SIGPIPE and needs a PATH.
#[derive(Clone)]
struct Payload;

impl Payload {
    fn find(spec: &Spec) -> Result<(&Process, PathBuf)> {
        let process =
            spec.process().as_ref().ok_or_else(|| Error::invalid_argument("no process"))?;
        let program = payload::find(process.args().as_deref(), process.env().as_deref())?;
        Ok((process, program))
    }

    fn run(spec: &Spec) -> Result<Infallible> {
        let (process, program) = Self::find(spec)?;
        let args = process.args().as_deref().unwrap_or_default();
        payload::run(&program, args, &payload::environment(process))
            .internal(|| format!("exec: {:?}", program.display()))
    }
}

impl Executor for Payload {
    fn validate(&self, spec: &Spec) -> std::result::Result<(), ExecutorValidationError> {
        Self::find(spec).map(drop).map_err(|error| {
            findings::tell(&error);
            ExecutorValidationError::ArgValidationError(error.chain())
        })
    }

    fn exec(&self, spec: &Spec) -> std::result::Result<(), ExecutorError> {
        match Self::run(spec) {
            Ok(never) => match never {},
            Err(error) => Err(ExecutorError::Other(error.chain())),
        }
    }
}

/// The socket over which libcontainer hands out the master of a terminal.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(state: &Path, id: &str) -> Result<Self> {
        let path = state.join(format!("{id}.console"));
        // Bound by a short name, since the path may exceed what an address holds.
        let short = || -> io::Result<UnixListener> {
            let directory = fs::File::open(state)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
            UnixListener::bind(format!("/proc/self/fd/{number}/{id}.console"))
        };
        let listener = short().internal(|| format!("listen at {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Takes the master, which has been sent by the time the container is there.
    fn receive(self) -> Result<OwnedFd> {
        let receive = || -> io::Result<Option<OwnedFd>> {
            let (socket, _) = self.listener.accept()?;
            super::protocol::receive_descriptor(&OwnedFd::from(socket))
        };
        receive()
            .internal(|| "receive the terminal of a container")?
            .ok_or_else(|| Error::internal("libcontainer has sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It is there, because it was bound; if not, nothing is left to remove.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        bundle
    }

    fn checked(bundle: &Path) -> Error {
        load(bundle).and_then(|spec| check(&spec, bundle).map(drop)).unwrap_err()
    }

    #[test]
    fn a_broken_bundle_is_named() {
        let missing = tempfile::tempdir().unwrap();
        assert_eq!(load(missing.path()).unwrap_err().kind(), ErrorKind::NotFound);
        let broken = bundle("{");
        assert_eq!(load(broken.path()).unwrap_err().kind(), ErrorKind::InvalidArgument);
        let rootless = bundle(r#"{"ociVersion":"1.1.0","root":{"path":"rootfs"}}"#);
        assert_eq!(checked(rootless.path()).kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_mount_without_its_source_is_not_found() {
        let bundle = bundle(
            r#"{"ociVersion":"1.1.0","root":{"path":"."},"mounts":[
                {"destination":"/data","type":"bind","source":"/nope/x","options":["rbind"]}]}"#,
        );
        let error = checked(bundle.path());
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.chain(), "mount /data: source /nope/x: no such file or directory");
    }
}
