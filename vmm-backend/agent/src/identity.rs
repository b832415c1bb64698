//! What makes a guest this one and no other.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use guest_api::{SHARE_DIRECTORY, SHARE_TAG};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::sys::utsname::uname;
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
}

/// What a guest needs in order to become the one of an identity: opened and made while it boots,
/// because all that is left to a clone is done by each of them.
pub(crate) struct Prepared {
    urandom: File,
    machine_id: File,
    kernel_release: String,
}

impl Prepared {
    /// Opens the files and makes the directories.
    pub(crate) fn prepare() -> Result<Self> {
        for directory in ["/etc", SHARE_DIRECTORY] {
            fs::create_dir_all(directory).internal(|| format!("make {directory}"))?;
        }
        let open = |path: &str| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
            file.internal(|| format!("open {path}"))
        };
        let system = uname().internal(|| "ask for the kernel release")?;
        Ok(Self {
            urandom: open("/dev/urandom")?,
            machine_id: open(MACHINE_ID)?,
            kernel_release: system.release().to_string_lossy().into_owned(),
        })
    }

    /// What `uname -r` prints.
    pub(crate) fn kernel_release(&self) -> &str {
        &self.kernel_release
    }

    /// Credits entropy of the host and reseeds the generator.
    pub(crate) fn reseed(&self, entropy: &[u8]) -> Result<()> {
        if !(32..=sys::MAX_ENTROPY).contains(&entropy.len()) {
            return Err(Error::invalid_argument(format!(
                "{} bytes of entropy are not in 32..={}",
                entropy.len(),
                sys::MAX_ENTROPY
            )));
        }
        sys::add_entropy(&self.urandom, entropy).internal(|| "credit entropy to /dev/urandom")
    }

    /// Makes this guest the one of `identity`.
    pub(crate) fn take_identity(&self, identity: &Identity) -> Result<()> {
        if !identity.hostname.is_empty() {
            sethostname(&identity.hostname)
                .internal(|| format!("set the host name {:?}", identity.hostname))?;
        }
        let mut line = Vec::with_capacity(33);
        for byte in identity.machine_id {
            line.extend(
                [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]),
            );
        }
        line.push(b'\n');
        // It has the same length every time.
        self.machine_id.write_all_at(&line, 0).internal(|| format!("write {MACHINE_ID}"))
    }
}

/// Sets the wall clock to `nanoseconds` since 1970.
pub(crate) fn set_clock(nanoseconds: u64) -> Result<()> {
    let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, time).internal(|| "set CLOCK_REALTIME")
}

/// Mounts the shared directory, unless it is mounted already, and looks at it.
///
/// The look is the first access of this user, which makes the kernel introduce it to the server. Where
/// several processes come first at once, Linux 6.1 sends the server the name "/" for one of them,
/// which the server does not know (`v9fs_fid_lookup_with_uid` looks for the root twice, and another
/// process may have found it in between): that one is told that its file does not exist.
pub(crate) fn mount_share() -> Result<()> {
    mount_tag()?;
    fs::metadata(SHARE_DIRECTORY).internal(|| format!("look at {SHARE_DIRECTORY}")).map(drop)
}

fn mount_tag() -> Result<()> {
    let flags = MsFlags::MS_NOATIME;
    match mount(Some(SHARE_TAG), SHARE_DIRECTORY, Some("9p"), flags, Some(SHARE_OPTIONS)) {
        Ok(()) => Ok(()),
        // The device serves one mount at a time: perhaps this very one, of an earlier try.
        Err(Errno::EBUSY) if is_mounted(SHARE_DIRECTORY) => Ok(()),
        Err(error) => {
            Err(error).internal(|| format!("mount the 9p tag {SHARE_TAG:?} on {SHARE_DIRECTORY}"))
        }
    }
}

fn is_mounted(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(path))
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
        let null = || OpenOptions::new().write(true).open("/dev/null").unwrap();
        let prepared =
            Prepared { urandom: null(), machine_id: null(), kernel_release: String::new() };
        for length in [31, sys::MAX_ENTROPY + 1] {
            let error = prepared.reseed(&vec![0; length]).unwrap_err();
            assert_eq!(error.kind(), runtime_api::ErrorKind::InvalidArgument);
        }
    }
}
