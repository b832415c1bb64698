//! What a sandbox is, and which one a container belongs to.

use std::time::SystemTime;

use crate::{ContainerId, Pid, Result, SandboxId};

/// The state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// The VM runs and its agent answers.
    Ready,
    /// The VM is gone; only its record is left, until it is deleted.
    Stopped,
}

/// What [`Runtime::sandbox_status`](crate::Runtime::sandbox_status) answers.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxStatus {
    /// The state.
    pub state: SandboxState,
    /// The opaque number given to daemons as a process id.
    pub pid: Pid,
    /// When it was created.
    pub created_at: SystemTime,
    /// Its containers, in the order of their creation.
    pub containers: Vec<ContainerId>,
}

/// Which sandbox a container belongs to, by its annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Whether the container stands for the sandbox itself (a pod's pause container, or a
    /// container that is alone in its sandbox).
    pub is_sandbox: bool,
}

impl Grouping {
    /// The annotations that name a sandbox, by precedence: the runc shim's own, containerd's CRI
    /// plugin's, CRI-O's.
    pub const SANDBOX_ANNOTATIONS: [&'static str; 3] = [
        "io.containerd.runc.v2.group",
        "io.kubernetes.cri.sandbox-id",
        "io.kubernetes.cri-o.SandboxID",
    ];

    /// The annotations that say whether a container stands for its sandbox.
    const TYPE_ANNOTATIONS: [&'static str; 2] =
        ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

    /// Reads the grouping of `container` out of its annotations.
    ///
    /// # Errors
    /// `InvalidArgument` when the sandbox that an annotation names is not an id.
    pub fn of<'a>(
        container: &ContainerId,
        annotation: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self> {
        let named = Self::SANDBOX_ANNOTATIONS.iter().find_map(|name| annotation(name));
        let sandbox = SandboxId::parse(named.unwrap_or(container.as_str()))?;
        let kind = Self::TYPE_ANNOTATIONS.iter().find_map(|name| annotation(name));
        let is_sandbox = match kind {
            Some(kind) => kind == "sandbox",
            None => sandbox.as_str() == container.as_str(),
        };
        Ok(Self { sandbox, is_sandbox })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouping(annotations: &[(&'static str, &'static str)]) -> Grouping {
        let container = ContainerId::parse("app").unwrap();
        let find = |name: &str| annotations.iter().find(|(key, _)| *key == name).map(|kv| kv.1);
        Grouping::of(&container, find).unwrap()
    }

    #[test]
    fn a_container_without_annotations_is_its_own_sandbox() {
        let alone = grouping(&[]);
        assert_eq!((alone.sandbox.as_str(), alone.is_sandbox), ("app", true));
    }

    #[test]
    fn every_daemons_annotation_is_understood() {
        for name in Grouping::SANDBOX_ANNOTATIONS {
            let joined = grouping(&[(name, "pod")]);
            assert_eq!((joined.sandbox.as_str(), joined.is_sandbox), ("pod", false), "{name}");
        }
        let pause = grouping(&[
            ("io.kubernetes.cri-o.SandboxID", "pod"),
            ("io.kubernetes.cri-o.ContainerType", "sandbox"),
        ]);
        assert!(pause.is_sandbox);
    }
}
