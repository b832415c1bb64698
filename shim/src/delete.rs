//! `delete`: remove what a container has left behind.
//!
//! Daemons run it after every deletion, and when they have lost the server; so it finds anything
//! from nothing at all to a sandbox in full operation.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use runtime_api::{ContainerId, Error, Result, ResultExt, SandboxId};

use crate::bundle::Bundle;
use crate::daemon::Daemon;
use crate::flags::Flags;
use crate::{Abandoned, Backend};
use crate::{socket, state};

/// How long the clean-up may take: daemons kill `delete` after five seconds.
const CLEANUP_DEADLINE: Duration = Duration::from_millis(4500);

/// Killed by SIGKILL: what daemons report for a task that nobody has seen exit.
const KILLED: u32 = 128 + 9;

/// Answers the bytes for standard output. Idempotent.
///
/// # Errors
/// What stays behind, and `DeadlineExceeded`.
pub(crate) fn delete(backend: Arc<dyn Backend>, flags: &Flags) -> Result<Vec<u8>> {
    let container = ContainerId::parse(flags.id.clone())?;
    let bundle = Bundle::of(flags)?;
    let sandbox = match bundle.grouping(&container) {
        Ok(grouping) => grouping.sandbox,
        // A bundle that is damaged must not keep its container from being removed.
        Err(_) => SandboxId::parse(flags.id.clone())?,
    };
    let daemon = Daemon::of(flags);
    let sockets = sockets(&daemon, &bundle, &sandbox)?;
    let state_directory = daemon.state_directory();
    within(CLEANUP_DEADLINE, format!("clean up after container {container}"), move || {
        backend.cleanup(&state_directory, &Abandoned { container, sandbox })?;
        sockets.iter().try_for_each(|path| socket::remove_stale(path))?;
        state::remove_unused(&state_directory);
        Ok(())
    })?;
    response()
}

/// Where the socket of the sandbox may be: the usual place, and the one that `start` has recorded,
/// in case the daemon had chosen the directory.
fn sockets(daemon: &Daemon, bundle: &Bundle, sandbox: &SandboxId) -> Result<Vec<PathBuf>> {
    let name = daemon.socket_name(sandbox);
    let recorded = bundle.recorded_socket().filter(|path| path.ends_with(&name));
    Ok([Some(daemon.socket(sandbox, None)?), recorded].into_iter().flatten().collect())
}

/// Gives `work` a thread of its own, since a system call that hangs cannot be called off.
fn within(
    deadline: Duration,
    attempt: String,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .spawn(move || sender.send(work()))
        .internal(|| format!("{attempt}: start a thread"))?;
    match receiver.recv_timeout(deadline) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(Error::deadline_exceeded(format!("{attempt}: it took over {deadline:?}")))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(Error::internal(format!("{attempt}: the clean-up broke")))
        }
    }
}

fn response() -> Result<Vec<u8>> {
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(Timestamp::from(SystemTime::now())).into(),
        ..Default::default()
    };
    response.write_to_bytes().internal(|| "encode DeleteResponse")
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::ErrorKind;

    #[test]
    fn a_cleanup_that_hangs_is_reported_in_time() {
        let (release, hang) = mpsc::channel::<()>();
        let hanging = move || {
            let _ = hang.recv();
            Ok(())
        };
        let result = within(Duration::from_millis(20), "clean up after x".into(), hanging);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.to_string().contains("clean up after x"), "{error}");
        drop(release);
    }

    #[test]
    fn the_response_tells_of_a_kill_at_a_real_time() {
        let response = DeleteResponse::parse_from_bytes(&response().unwrap()).unwrap();
        assert_eq!(response.exit_status, 137);
        assert!(response.exited_at.seconds > 0);
    }
}
