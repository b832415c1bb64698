//! The durable part of a handle: which container, of which machine.

use runtime_api::{ContainerId, Error, Result, SandboxId, Token};

use crate::process_identity::ProcessIdentity;

/// The first word of every token, with its version.
const VERSION: &str = "vmrt-1";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerToken {
    pub(crate) sandbox: SandboxId,
    pub(crate) container: ContainerId,
    /// Tells a sandbox from a later one of the same name.
    pub(crate) vmm: ProcessIdentity,
}

impl ContainerToken {
    /// The bytes that a daemon stores.
    pub(crate) fn write(&self) -> Token {
        let Self { sandbox, container, vmm } = self;
        Token(format!("{VERSION} {sandbox} {container} {} {}", vmm.pid, vmm.start_time).into())
    }

    /// Reads what a daemon has stored.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no token of this runtime.
    pub(crate) fn read(token: &Token) -> Result<Self> {
        let parse = || {
            let text = str::from_utf8(&token.0).ok()?;
            let mut words = text.split(' ');
            if words.next()? != VERSION {
                return None;
            }
            let read = Self {
                sandbox: SandboxId::parse(words.next()?).ok()?,
                container: ContainerId::parse(words.next()?).ok()?,
                vmm: ProcessIdentity {
                    pid: words.next()?.parse().ok()?,
                    start_time: words.next()?.parse().ok()?,
                },
            };
            words.next().is_none().then_some(read)
        };
        parse().ok_or_else(|| {
            let length = token.0.len();
            Error::invalid_argument(format!("{length} bytes that are no token of this runtime"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_in_its_frozen_form() {
        let token = ContainerToken {
            sandbox: SandboxId::parse("pod").unwrap(),
            container: ContainerId::parse("app").unwrap(),
            vmm: ProcessIdentity { pid: 7, start_time: 8 },
        };
        let frozen = Token(b"vmrt-1 pod app 7 8".to_vec());
        assert_eq!(token.write(), frozen);
        assert_eq!(ContainerToken::read(&frozen).unwrap(), token);
        for bad in [
            "",
            "vmrt-2 pod app 7 8",
            "vmrt-1 pod app 7",
            "vmrt-1 . app 7 8",
            "vmrt-1 pod app 7 8 9",
        ] {
            assert!(ContainerToken::read(&Token(bad.into())).is_err(), "{bad}");
        }
    }
}
