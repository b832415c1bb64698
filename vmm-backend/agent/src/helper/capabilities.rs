//! The capabilities of a process (capabilities(7)).

use std::io;

use runtime_api::Result;

use super::calls;
use super::spec::Object;

/// By their numbers.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets, one bit for each capability. A process without any has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Capabilities {
    pub(super) fn parse(sets: Option<Object<'_>>) -> Result<Self> {
        let Some(sets) = sets else { return Ok(Self::default()) };
        let set = |name| -> Result<u64> { Ok(bits(&sets.texts(name)?)) };
        Ok(Self {
            bounding: set("process.capabilities.bounding")?,
            effective: set("process.capabilities.effective")?,
            permitted: set("process.capabilities.permitted")?,
            inheritable: set("process.capabilities.inheritable")?,
            ambient: set("process.capabilities.ambient")?,
        })
    }

    /// Narrows the bounding set, as long as this process may.
    pub(super) fn narrow(&self) -> io::Result<()> {
        for capability in 0..u64::BITS {
            let kept = self.bounding & (1 << capability) != 0;
            if !kept && !calls::drop_from_bounding_set(capability)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes the other sets, after the user has changed.
    pub(super) fn take(&self) -> io::Result<()> {
        calls::clear_ambient_set()?;
        calls::set_capabilities(self.effective, self.permitted, self.inheritable)?;
        for capability in (0..u64::BITS).filter(|number| self.ambient & (1 << number) != 0) {
            // As the reference runtime: what cannot be raised is not there.
            if let Err(error) = calls::add_to_ambient_set(capability) {
                log::warn!("raise ambient capability {capability}: {error}");
            }
        }
        Ok(())
    }
}

/// Names that no kernel knows yet are passed over, as the reference runtime does.
fn bits(names: &[String]) -> u64 {
    let mut bits = 0;
    for name in names {
        match NAMES.iter().position(|known| known == name) {
            Some(number) => bits |= 1 << number,
            None => log::warn!("capability {name} is unknown"),
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_set_is_read_by_the_numbers_of_the_kernel() {
        let sets = json!({
            "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_NEW"], "ambient": ["CAP_SYSLOG"]
        });
        let sets = Capabilities::parse(Some(Object::of(&sets, "").unwrap())).unwrap();
        assert_eq!((sets.bounding, sets.ambient, sets.effective), (1 | 1 << 40, 1 << 34, 0));
        assert_eq!(Capabilities::parse(None).unwrap(), Capabilities::default());
    }
}
