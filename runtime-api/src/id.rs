//! Ids, parsed once into types.

use std::fmt;
use std::num::NonZeroU64;

use crate::{Error, Result};

/// The longest id that is accepted, in bytes.
///
/// Ids name directories and sockets; containerd's own limit is 76 bytes and CRI ids have 64.
const MAX_ID_LENGTH: usize = 128;

/// Checks the identifier rule of containerd (`identifiers.Validate`) with a looser length: letters
/// and digits, and single `.`, `_` or `-` inside. An id can therefore be used as a path component.
fn validate(kind: &'static str, id: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    if id.is_empty() {
        return Err(Error::invalid_argument(format!("{kind} id is empty")));
    }
    if id.len() > MAX_ID_LENGTH {
        return Err(Error::invalid_argument(format!(
            "{kind} id of {} bytes is longer than {MAX_ID_LENGTH}",
            id.len()
        )));
    }
    let ends = outer(id.chars().next()) && outer(id.chars().next_back());
    if !ends || !id.chars().all(inner) {
        return Err(Error::invalid_argument(format!(
            "{kind} id {id:?} may hold letters, digits and inner '.', '_' or '-' only"
        )));
    }
    Ok(())
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Parses an id.
            ///
            /// # Errors
            /// `InvalidArgument` when it is empty, longer than 128 bytes, or could not be a
            /// path component.
            pub fn parse(id: impl Into<String>) -> Result<Self> {
                let id = id.into();
                validate($kind, &id)?;
                Ok(Self(id))
            }

            /// The id as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&self.0)
            }
        }
    };
}

id_type!(
    /// Names a sandbox: one virtual machine.
    SandboxId,
    "sandbox"
);
id_type!(
    /// Names a container, unique among the containers of one runtime.
    ContainerId,
    "container"
);
id_type!(
    /// Names an additional process of a container, unique within it.
    ExecId,
    "exec"
);

/// The in-memory part of a [`Handle`]: a generational key.
///
/// It finds a container without a comparison of strings. It is never a pointer: the key of a
/// deleted container, or of another run of the daemon, answers `NotFound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(NonZeroU64);

impl Key {
    /// Makes a key from its number; zero is no key.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, as it crosses a wire or the C table.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

/// The durable part of a [`Handle`]: opaque, versioned bytes.
///
/// A daemon stores it and gives it to [`Runtime::attach`](crate::Runtime::attach) after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(pub Vec<u8>);

/// What a runtime answers to a creation: everything the caller needs to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The container (of a sandbox handle: the container that stands for it).
    pub container: ContainerId,
    /// Its key for as long as this runtime is open. `None` where the runtime is reached through a
    /// wire that has no room for it.
    pub key: Option<Key>,
    /// What finds it again after a restart. Empty where the runtime cannot re-attach.
    pub token: Token,
}

/// One process of a container: its init, or an exec.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessRef {
    /// The container.
    pub container: ContainerId,
    /// The additional process; `None` means the container's init.
    pub exec: Option<ExecId>,
    /// Finds the container faster than its id; `None` looks it up by id.
    pub key: Option<Key>,
}

impl ProcessRef {
    /// The init process of `container`.
    pub fn init(container: ContainerId) -> Self {
        Self { container, exec: None, key: None }
    }

    /// The additional process `exec` of `container`.
    pub fn exec(container: ContainerId, exec: ExecId) -> Self {
        Self { container, exec: Some(exec), key: None }
    }
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.exec {
            None => write!(f, "container {}", self.container),
            Some(exec) => write!(f, "exec {exec} of container {}", self.container),
        }
    }
}

/// The number that a daemon is told as a process id.
///
/// It is opaque: the VM layer supplies a number that is a living process of the host for as long as
/// the container lives, and no operation of the trait takes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pid(pub u32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn an_id_is_one_path_component() {
        for good in ["a", "redis-1", "k8s.io_x", "_", "0123456789abcdef"] {
            assert_eq!(ContainerId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-a", "a-", ".hidden", "a b", "a\0", "é"] {
            assert_eq!(ContainerId::parse(bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(SandboxId::parse("x".repeat(128)).is_ok());
        assert!(SandboxId::parse("x".repeat(129)).is_err());
    }

    #[test]
    fn zero_is_no_key() {
        assert_eq!(Key::new(0), None);
        assert_eq!(Key::new(7).unwrap().number(), 7);
    }
}
