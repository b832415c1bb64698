//! What makes a guest this one and no other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use guest_api::{SHARE_DIRECTORY, SHARE_TAG};
use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::sethostname;
use runtime_api::{Error, Result, ResultExt, SandboxId};

use crate::sys;

const MACHINE_ID: &str = "/etc/machine-id";
const HOSTNAME_LIMIT: usize = 64;
const SHARE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";

/// Who this guest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) sandbox: SandboxId,
    pub(crate) hostname: String,
    pub(crate) machine_id: [u8; 16],
}

impl Identity {
    /// Parses the identity that the host has sent.
    pub(crate) fn parse(identity: &guest_api::Identity) -> Result<Self> {
        let machine_id = identity.machine_id.as_slice().try_into().map_err(|_| {
            let length = identity.machine_id.len();
            Error::invalid_argument(format!("machine id of {length} bytes, not 16"))
        })?;
        if identity.hostname.len() > HOSTNAME_LIMIT {
            let length = identity.hostname.len();
            let message = format!("host name of {length} bytes is longer than {HOSTNAME_LIMIT}");
            return Err(Error::invalid_argument(message));
        }
        Ok(Self {
            sandbox: SandboxId::parse(identity.sandbox.clone())?,
            hostname: identity.hostname.clone(),
            machine_id,
        })
    }

    /// Makes this guest the one of this identity.
    pub(crate) fn assume(&self) -> Result<()> {
        if !self.hostname.is_empty() {
            sethostname(&self.hostname)
                .internal(|| format!("set the host name {:?}", self.hostname))?;
        }
        let digits: String = self.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::create_dir_all("/etc").internal(|| "make /etc")?;
        fs::write(MACHINE_ID, digits + "\n").internal(|| format!("write {MACHINE_ID}"))
    }
}

/// Credits entropy of the host and reseeds the generator.
pub(crate) fn reseed(entropy: &[u8]) -> Result<()> {
    if !(32..=sys::MAX_ENTROPY).contains(&entropy.len()) {
        return Err(Error::invalid_argument(format!(
            "{} bytes of entropy are not in 32..={}",
            entropy.len(),
            sys::MAX_ENTROPY
        )));
    }
    let urandom =
        OpenOptions::new().write(true).open("/dev/urandom").internal(|| "open /dev/urandom")?;
    sys::add_entropy(&urandom, entropy).internal(|| "credit entropy to /dev/urandom")
}

/// Sets the wall clock to `nanoseconds` since 1970.
pub(crate) fn set_clock(nanoseconds: u64) -> Result<()> {
    let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, time).internal(|| "set CLOCK_REALTIME")
}

/// Mounts the shared directory, unless it is mounted already.
pub(crate) fn mount_share() -> Result<()> {
    let describe = || format!("mount the 9p tag {SHARE_TAG:?} on {SHARE_DIRECTORY}");
    if is_mounted(Path::new(SHARE_DIRECTORY)).internal(describe)? {
        return Ok(());
    }
    fs::create_dir_all(SHARE_DIRECTORY).internal(describe)?;
    let flags = MsFlags::MS_NOATIME;
    mount(Some(SHARE_TAG), SHARE_DIRECTORY, Some("9p"), flags, Some(SHARE_OPTIONS))
        .internal(describe)
}

fn is_mounted(path: &Path) -> io::Result<bool> {
    let target = path.as_os_str().as_encoded_bytes();
    let mounts = io::read_to_string(File::open("/proc/self/mounts")?)?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1).is_some_and(|mounted| mounted.as_bytes() == target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> guest_api::Identity {
        let mut identity = guest_api::Identity::new();
        identity.sandbox = "pod".into();
        identity.machine_id = vec![7; 16];
        identity
    }

    #[test]
    fn an_identity_is_checked_before_anything_is_changed() {
        assert_eq!(Identity::parse(&sent()).unwrap().sandbox.as_str(), "pod");
        let broken: [fn(&mut guest_api::Identity); 3] = [
            |identity| identity.machine_id.truncate(15),
            |identity| identity.hostname = "x".repeat(65),
            |identity| identity.sandbox = "../pod".into(),
        ];
        for spoil in broken {
            let mut identity = sent();
            spoil(&mut identity);
            assert!(Identity::parse(&identity).is_err());
        }
    }

    #[test]
    fn entropy_is_bounded_at_both_ends() {
        assert!(reseed(&[0; 31]).is_err());
        assert!(reseed(&[0; sys::MAX_ENTROPY + 1]).is_err());
    }
}
