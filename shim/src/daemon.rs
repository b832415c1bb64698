//! Whom a server belongs to: one namespace of one daemon. It names the sockets and the state.

use std::path::{Path, PathBuf};

use runtime_api::{Error, Result, SandboxId};
use sha2::{Digest, Sha256};

use crate::flags::Flags;

/// Where sockets are when the daemon does not choose a directory, as containerd's own shims do it.
const SOCKET_DIRECTORY: &str = "/run/containerd/s";

/// The parent of all state directories.
const STATE_ROOT: &str = "/run/vmrt";

/// The longest path of a socket: `sun_path` of unix(7) without its end.
const MAX_SOCKET_PATH: usize = 107;

/// One namespace of one daemon. `start`, the server and `delete` derive the same one from their
/// flags, so that daemons and namespaces never meet in a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    address: String,
    namespace: String,
}

impl Daemon {
    pub(crate) fn of(flags: &Flags) -> Self {
        Self { address: flags.address.clone(), namespace: flags.namespace.clone() }
    }

    /// The file name of a sandbox's socket.
    pub(crate) fn socket_name(&self, sandbox: &SandboxId) -> String {
        digest(&format!("{}/{}/{sandbox}", self.address, self.namespace))
    }

    /// The socket of a sandbox, in the directory that the daemon wants or the usual one.
    ///
    /// # Errors
    /// `InvalidArgument` when the path is too long for a socket.
    pub(crate) fn socket(&self, sandbox: &SandboxId, wanted: Option<&Path>) -> Result<PathBuf> {
        let directory = wanted.unwrap_or(Path::new(SOCKET_DIRECTORY));
        let path = directory.join(self.socket_name(sandbox));
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Error::invalid_argument(format!(
                "socket {} has a path of more than {MAX_SOCKET_PATH} bytes",
                path.display()
            )));
        }
        Ok(path)
    }

    /// The directory for the state of all sandboxes of this daemon and namespace.
    pub(crate) fn state_directory(&self) -> PathBuf {
        let name = digest(&format!("{}/{}", self.address, self.namespace));
        Path::new(STATE_ROOT).join(&name[..16])
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(address: &str) -> Daemon {
        Daemon { address: address.to_owned(), namespace: "default".to_owned() }
    }

    #[test]
    fn the_socket_has_the_name_that_containerds_shims_use() {
        let sandbox = SandboxId::parse("a").unwrap();
        let socket = daemon("/run/containerd/containerd.sock").socket(&sandbox, None).unwrap();
        // printf /run/containerd/containerd.sock/default/a | sha256sum
        let name = "82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6";
        assert_eq!(socket, Path::new("/run/containerd/s").join(name));
    }

    #[test]
    fn daemons_do_not_share_state() {
        let one = daemon("/run/one.sock").state_directory();
        assert_ne!(one, daemon("/run/two.sock").state_directory());
        assert_eq!(one.file_name().unwrap().len(), 16);
    }

    #[test]
    fn a_directory_that_is_too_deep_is_refused() {
        let sandbox = SandboxId::parse("a").unwrap();
        let room = MAX_SOCKET_PATH - 64 - 1;
        for (length, fits) in [(room, true), (room + 1, false)] {
            let directory = format!("/{}", "d".repeat(length - 1));
            let socket = daemon("x").socket(&sandbox, Some(directory.as_ref()));
            assert_eq!(socket.is_ok(), fits, "{length}");
        }
    }
}
