//! How a daemon calls the program of a shim.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use runtime_api::{ContainerId, Error, Result, ResultExt};
use tokio::process::Command;

/// How long an action may take; containerd gives `delete` five seconds, and `start` may find a busy
/// machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The program, and what it is told of its daemon.
pub(super) struct Shim {
    pub(super) program: PathBuf,
    /// The configuration of vmrt; other shims do not look at it.
    pub(super) config: PathBuf,
    pub(super) namespace: String,
    /// The address of the daemon, where nobody listens; the name of the shim's socket comes from it.
    pub(super) address: PathBuf,
    pub(super) events: PathBuf,
}

impl Shim {
    /// Runs `start` and answers the address of the server.
    pub(super) async fn start(&self, container: &ContainerId, bundle: &Path) -> Result<String> {
        let answer = self.run(container, bundle, "start").await?;
        let address = String::from_utf8_lossy(&answer).trim().to_owned();
        if address.starts_with("unix://") {
            return Ok(address);
        }
        Err(Error::internal(format!("start of {container} answers {address:?}, no address")))
    }

    /// Runs `delete`, which removes whatever may be left of a container.
    pub(super) async fn delete(&self, container: &ContainerId, bundle: &Path) -> Result<()> {
        self.run(container, bundle, "delete").await.map(drop)
    }

    async fn run(&self, container: &ContainerId, bundle: &Path, action: &str) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.args(["-namespace", &self.namespace]).arg("-address").arg(&self.address);
        command.args(["-publish-binary", "/usr/bin/containerd", "-id", container.as_str()]);
        if action == "delete" {
            command.arg("-bundle").arg(bundle);
        }
        command
            .arg(action)
            .current_dir(bundle)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GOMAXPROCS", "2")
            .env("TTRPC_ADDRESS", &self.events)
            .env("VMRT_CONFIG", &self.config)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let what = || format!("{} {action} of {container}", self.program.display());
        let output = tokio::time::timeout(DEADLINE, command.output())
            .await
            .map_err(|_| Error::deadline_exceeded(format!("{} took {DEADLINE:?}", what())))?
            .internal(what)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Error::internal(format!("{}: {}: {}", what(), output.status, errors.trim())))
    }
}
