//! What is asked of a runtime.

use std::path::PathBuf;

use crate::{ContainerId, ExecId, Handle, Pid, SandboxId, Stdio};

/// A JSON document of the OCI runtime specification that passes through unread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Json(pub Vec<u8>);

/// A filesystem to mount (mount(8)), as containerd's `types.Mount` gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The filesystem type, `bind` among them.
    pub kind: String,
    /// The device or directory.
    pub source: String,
    /// Where below the root it goes; empty for the root itself.
    pub target: String,
    /// The options, each as mount(8) takes it after `-o`.
    pub options: Vec<String>,
}

/// Runtime options that came with a creation (`runtimeoptions.v1.Options`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// A configuration file to use in place of the default one.
    pub config_path: Option<PathBuf>,
    /// The text of a configuration; it wins over `config_path`.
    pub config_body: Option<String>,
}

/// Asks for an empty sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSandbox {
    /// Its id.
    pub id: SandboxId,
    /// The network namespace that CNI has prepared (`/var/run/netns/…`); `None` for loopback only.
    pub netns: Option<PathBuf>,
    /// The host name of the sandbox; empty to leave it to the containers.
    pub hostname: String,
    /// Annotations of the pod; they size the VM.
    pub annotations: Vec<(String, String)>,
    /// Configuration.
    pub options: RuntimeOptions,
}

/// Asks for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateContainer {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox to put it into. `None` takes the one that the annotations in the bundle's
    /// `config.json` name (see [`Grouping`](crate::Grouping)) and creates it when it is missing; a
    /// sandbox made so lives until its last container is deleted.
    pub sandbox: Option<SandboxId>,
    /// The OCI bundle: the directory that holds `config.json`.
    pub bundle: PathBuf,
    /// What to mount as the root filesystem. Empty when `root.path` of the spec is ready for use.
    pub rootfs: Vec<Mount>,
    /// Where the streams of the init process go.
    pub stdio: Stdio,
    /// Configuration, for the sandbox that may have to be created.
    pub options: RuntimeOptions,
}

/// What a creation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// How to come back to the container.
    pub handle: Handle,
    /// The opaque number given to daemons as a process id.
    pub pid: Pid,
}

/// Asks for an additional process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The container it joins.
    pub container: ContainerId,
    /// Its id within the container.
    pub id: ExecId,
    /// The `process` object of the OCI runtime specification (config.md, "Process").
    pub process: Json,
    /// Where its streams go.
    pub stdio: Stdio,
}

/// Asks for other limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The container.
    pub container: ContainerId,
    /// The `linux.resources` object of the OCI runtime specification; what is absent stays.
    pub resources: Json,
}
