//! The hooks of a specification (OCI runtime-spec, config.md, "POSIX-platform Hooks").
//!
//! ```text
//!   created in the guest ──► prestart, createRuntime ──► Create answers
//!   started ──► poststart ──► Start answers          deleted ──► poststop ──► Delete answers
//! ```
//!
//! These run on the host, with the state of the container on their standard input. The others belong
//! into the namespaces of the container, where the host's programs are not, and are refused.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};
use runtime_api::{ContainerId, Error, ErrorKind, Pid, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::child::Child;
use crate::container::Container;

/// How long a hook may take that does not say so itself.
const DEADLINE: Duration = Duration::from_secs(30);
/// How much of what a hook complains of is told.
const MAX_COMPLAINT: usize = 1024;

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// When it is created, before that is told.
    CreateRuntime,
    /// When it has been started.
    Poststart,
    /// When it has been deleted.
    Poststop,
}

impl Stage {
    fn status(self) -> &'static str {
        match self {
            Self::CreateRuntime => "creating",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// The hooks of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks(Option<Box<All>>);

#[derive(Clone, Debug)]
struct All {
    hooks: oci_spec::runtime::Hooks,
    version: String,
    annotations: Value,
}

impl Hooks {
    pub(crate) fn of(spec: &Spec) -> Self {
        let hooks = spec.hooks().as_ref().filter(|hooks| **hooks != Default::default());
        Self(hooks.map(|hooks| {
            let version = spec.version().clone();
            let annotations = json!(spec.annotations().clone().unwrap_or_default());
            Box::new(All { hooks: hooks.clone(), version, annotations })
        }))
    }

    /// Looks whether all of them can be run.
    ///
    /// # Errors
    /// `Unimplemented` for those that run inside the container; `InvalidArgument` for a path that is
    /// not absolute.
    pub(crate) fn check(&self, container: &ContainerId) -> Result<()> {
        let Some(all) = &self.0 else { return Ok(()) };
        let inside = [
            ("createContainer", all.hooks.create_container()),
            ("startContainer", all.hooks.start_container()),
        ];
        for (name, hooks) in inside {
            if let Some(hook) = hooks.iter().flatten().next() {
                let path = hook.path().display();
                return Err(Error::unimplemented(format!(
                    "{name} hook {path} of container {container}: a VM has no program of the host"
                )));
            }
        }
        for stage in [Stage::CreateRuntime, Stage::Poststart, Stage::Poststop] {
            if let Some(hook) = all.of_stage(stage).find(|hook| !hook.path().is_absolute()) {
                let path = hook.path().display();
                let message = format!("hook {path} of container {container} is no absolute path");
                return Err(Error::invalid_argument(message));
            }
        }
        Ok(())
    }

    /// Runs those of a stage, one after the other, up to the first that fails; after a start or a
    /// deletion all of them, and tells of the first that has failed.
    pub(crate) async fn run(&self, stage: Stage, container: &Container, pid: Pid) -> Result<()> {
        let Some(all) = &self.0 else { return Ok(()) };
        let state = all.state(stage, &container.id, &container.bundle, pid);
        let mut result = Ok(());
        for hook in all.of_stage(stage) {
            let run = run(hook, &state).await;
            let path = hook.path().display();
            let run = run.map_err(|error| {
                let message = format!("hook {path} of container {}", container.id);
                Error::new(error.kind(), message).with_source(error)
            });
            if run.is_err() && stage == Stage::CreateRuntime {
                return run;
            }
            result = result.and(run);
        }
        result
    }
}

impl All {
    fn of_stage(&self, stage: Stage) -> impl Iterator<Item = &Hook> {
        let lists = match stage {
            Stage::CreateRuntime => [self.hooks.prestart(), self.hooks.create_runtime()],
            Stage::Poststart => [self.hooks.poststart(), &None],
            Stage::Poststop => [self.hooks.poststop(), &None],
        };
        lists.into_iter().flatten().flatten()
    }

    /// The state of the container (runtime-spec, runtime.md, "State").
    fn state(&self, stage: Stage, id: &ContainerId, bundle: &Path, pid: Pid) -> Vec<u8> {
        let mut state = json!({
            "ociVersion": self.version,
            "id": id.as_str(),
            "status": stage.status(),
            "bundle": bundle,
            "annotations": self.annotations,
        });
        if stage != Stage::Poststop {
            state["pid"] = json!(pid.0);
        }
        state.to_string().into_bytes()
    }
}

/// Runs one hook to its end.
async fn run(hook: &Hook, state: &[u8]) -> Result<()> {
    let deadline = match hook.timeout() {
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        None => DEADLINE,
    };
    let (mut child, pipes) = spawn(hook).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::FailedPrecondition };
        Error::new(kind, "start it").with_source(error)
    })?;
    let Pipes { mut input, reader, mut errors } = pipes;
    let mut complaint = Vec::new();
    let ended = async {
        let write = async {
            // One that does not want to know need not read it.
            let _ = input.write_all(state).await;
            drop(input);
            std::future::pending::<()>().await;
        };
        let read = async {
            while errors.read_buf(&mut complaint).await.is_ok_and(|count| count > 0) {
                complaint.truncate(MAX_COMPLAINT);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            code = child.exited() => code,
            () = write => None,
            () = read => None,
        }
    };
    let code = timeout(deadline, ended).await;
    drop(reader);
    match code {
        Ok(Some(0)) => Ok(()),
        Ok(code) => {
            let mut rest = [0; MAX_COMPLAINT];
            let count = errors.try_read(&mut rest).unwrap_or(0);
            complaint.extend(&rest[..count]);
            complaint.truncate(MAX_COMPLAINT);
            let text = String::from_utf8_lossy(&complaint);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let how = code.map_or("a signal".into(), |code| format!("code {code}"));
            Err(Error::failed_precondition(format!("it ended with {how}: {text}")))
        }
        // Dropped, it is killed.
        Err(_) => Err(Error::deadline_exceeded(format!("it did not end within {deadline:?}"))),
    }
}

struct Pipes {
    input: pipe::Sender,
    /// The hook's end, kept so that one which does not read breaks no pipe.
    reader: std::os::fd::OwnedFd,
    errors: pipe::Receiver,
}

fn spawn(hook: &Hook) -> io::Result<(Child, Pipes)> {
    let (input, given_input) = pipe::pipe()?;
    let (given_errors, errors) = pipe::pipe()?;
    let reader = given_input.into_blocking_fd()?;
    let mut words = hook.args().iter().flatten();
    let mut command = Command::new(hook.path());
    if let Some(name) = words.next() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
    }
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let variables = hook.env().iter().flatten().filter_map(|pair| pair.split_once('='));
    command
        .args(words)
        .env_clear()
        .envs(variables)
        .stdin(reader.try_clone()?)
        .stdout(Stdio::null())
        .stderr(given_errors.into_blocking_fd()?);
    let child = Child::watch(command.spawn()?.id())?;
    Ok((child, Pipes { input, reader, errors }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"]});
        if let Some(timeout) = timeout {
            hook["timeout"] = json!(timeout);
        }
        serde_json::from_value(hook).unwrap()
    }

    #[tokio::test]
    async fn a_hook_gets_the_state_and_its_environment() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let script = format!("cat >{0}; echo $A >>{0}", out.display());
        run(&hook(&script, None), b"{state}").await.unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{state}b\n");
        // More than a pipe holds, for one that does not read it.
        run(&hook("true", None), &vec![b'x'; 1 << 20]).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_told_with_what_it_says() {
        let error = run(&hook("echo no luck >&2; exit 3", None), b"").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("code 3: no luck"), "{error}");
        let missing: Hook = serde_json::from_value(json!({"path": "/no/such/hook"})).unwrap();
        assert_eq!(run(&missing, b"").await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_hook_that_does_not_end_is_killed() {
        let began = Instant::now();
        let error = run(&hook("sleep 1000", Some(1)), b"").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
