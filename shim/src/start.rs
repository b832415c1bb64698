//! `start`: have a server for the sandbox of a container, and tell its address.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Command, Stdio};

use runtime_api::{ContainerId, Result, ResultExt, SandboxId};

use crate::Backend;
use crate::bootstrap::{Bootstrap, EVENTS_VARIABLE};
use crate::bundle::Bundle;
use crate::daemon::Daemon;
use crate::flags::Flags;
use crate::socket::{Claim, SocketFile, claim};

/// Answers the bytes for standard output.
///
/// The socket already listens when the server process is started, so nobody waits for it: the
/// daemon's connection stays in the queue until the server comes to it.
///
/// # Errors
/// What keeps a server from being had. Nothing is left then.
pub(crate) fn start(backend: &dyn Backend, flags: &Flags) -> Result<Vec<u8>> {
    let bootstrap = Bootstrap::receive(flags)?;
    let bundle = Bundle::of(flags)?;
    let sandbox = bundle.grouping(&ContainerId::parse(flags.id.clone())?)?.sandbox;
    let directory = bootstrap.socket_directory.as_deref();
    let socket = Daemon::of(flags).socket(&sandbox, directory)?;
    let address = format!("unix://{}", socket.display());
    let reply = bootstrap.reply(&address)?;

    backend.check()?;
    match claim(&socket)? {
        Claim::Taken => bundle.write_address(&address)?,
        Claim::Ours(listener) => {
            let file = SocketFile::of(socket.clone());
            let server = Server { flags, bootstrap: &bootstrap, bundle: &bundle };
            let started = bundle
                .write_address(&address)
                .and_then(|()| server.spawn(&sandbox, &socket, listener));
            if let Err(error) = started {
                file.remove()?;
                return Err(error);
            }
        }
    }
    Ok(reply)
}

struct Server<'a> {
    flags: &'a Flags,
    bootstrap: &'a Bootstrap,
    bundle: &'a Bundle,
}

impl Server<'_> {
    /// Starts the server process. It gets the listener as its standard input, which is how a
    /// descriptor crosses posix_spawn(3) without code between fork and exec; the server moves it.
    fn spawn(&self, sandbox: &SandboxId, socket: &Path, listener: UnixListener) -> Result<()> {
        let program = std::env::current_exe().internal(|| "find the program of the server")?;
        let mut command = Command::new(&program);
        command
            .args(["-namespace", &self.flags.namespace, "-id", sandbox.as_str()])
            .args(["-address", &self.flags.address])
            .arg("-socket")
            .arg(socket)
            .args(self.bootstrap.debug.then_some("-debug"))
            .arg("serve")
            .env(EVENTS_VARIABLE, &self.bootstrap.events_address)
            .current_dir(self.bundle.path())
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().internal(|| format!("start {}", program.display()))?;
        rank_behind_daemon(child.id());
        Ok(())
    }
}

/// Makes the server one point likelier than the daemon to be killed for want of memory.
///
/// It may be forbidden (in a user namespace), or the daemon may be gone; then the server keeps the
/// daemon's own score, which is no reason to refuse to run.
fn rank_behind_daemon(server: u32) {
    let path = |pid: u32| format!("/proc/{pid}/oom_score_adj");
    let daemon = fs::read_to_string(path(parent_id())).ok();
    if let Some(score) = daemon.and_then(|text| text.trim().parse::<i32>().ok()) {
        let _ = fs::write(path(server), (score + 1).min(1000).to_string());
    }
}
