//! Device nodes and the links beside them in `/dev`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use runtime_api::{Error, Result, ResultExt};

use super::calls::{Depth, attach_mount, copy_mount};
use super::root::{Kind, Root};
use super::spec::Object;

/// A device node.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    kind: SFlag,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What every container has.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

impl Device {
    pub(super) fn parse(device: Object<'_>) -> Result<Self> {
        let kind = match device.required("linux.devices.type")? {
            "c" | "u" => SFlag::S_IFCHR,
            "b" => SFlag::S_IFBLK,
            "p" => SFlag::S_IFIFO,
            other => {
                let message = format!("linux.devices.type cannot be {other:?}");
                return Err(Error::invalid_argument(message));
            }
        };
        Ok(Self {
            path: device.required("linux.devices.path")?.into(),
            kind,
            major: device.number("linux.devices.major")?.unwrap_or(0),
            minor: device.number("linux.devices.minor")?.unwrap_or(0),
            mode: device.number("linux.devices.fileMode")?.unwrap_or(0o666),
            uid: device.number("linux.devices.uid")?.unwrap_or(0),
            gid: device.number("linux.devices.gid")?.unwrap_or(0),
        })
    }

    fn default((path, major, minor): (&str, u64, u64)) -> Self {
        let kind = SFlag::S_IFCHR;
        Self { path: path.into(), kind, major, minor, mode: 0o666, uid: 0, gid: 0 }
    }

    fn make(&self, root: &Root) -> Result<()> {
        let describe = || format!("make device {}", self.path.display());
        let (directory, name) = root.parent_of(&self.path).internal(describe)?;
        match self.make_node(&directory, &name) {
            // On a filesystem of the host, or in a user namespace: the guest's own node instead.
            Err(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EINVAL) => {
                self.show_node(root).internal(describe)
            }
            made => made.internal(describe),
        }
    }

    fn make_node(&self, directory: &OwnedFd, name: &Path) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(self.mode);
        match mknodat(directory, name, self.kind, mode, makedev(self.major, self.minor)) {
            // As the image has it.
            Err(Errno::EEXIST) => return Ok(()),
            made => made?,
        }
        // The mode is whole since this process has no umask.
        if self.uid != 0 || self.gid != 0 {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(directory, name, Some(uid), Some(gid), flags)?;
            fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }

    fn show_node(&self, root: &Root) -> std::io::Result<()> {
        let path = std::ffi::CString::new(self.path.as_os_str().as_encoded_bytes())?;
        let copy = copy_mount(&AT_FDCWD, &path, Depth::Alone)?;
        let place = root.find_or_make(&self.path, Kind::File)?;
        attach_mount(&copy, &place)
    }
}

/// Fills `/dev`: the default devices, those of the specification, and the links.
pub(super) fn fill(root: &Root, devices: &[Device]) -> Result<()> {
    for device in DEFAULT.map(Device::default) {
        // One of the specification has its say about mode and owner.
        if !devices.iter().any(|other| other.path == device.path) {
            device.make(root)?;
        }
    }
    for device in devices {
        device.make(root)?;
    }
    link(root)
}

fn link(root: &Root) -> Result<()> {
    let directory =
        root.find_or_make(Path::new("/dev"), Kind::Directory).internal(|| "find or make /dev")?;
    for (path, target) in LINKS {
        let name = Path::new(path).file_name().unwrap_or_default();
        match symlinkat(target, &directory, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).internal(|| format!("link {path} to {target}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_is_read_with_its_defaults() {
        let device = json!({"path": "/dev/x", "type": "b", "major": 7, "minor": 1});
        let device = Device::parse(Object::of(&device, "").unwrap()).unwrap();
        assert_eq!((device.kind, device.major, device.mode), (SFlag::S_IFBLK, 7, 0o666));
        let odd = json!({"path": "/dev/x", "type": "q"});
        let error = Device::parse(Object::of(&odd, "").unwrap()).unwrap_err();
        assert_eq!(error.chain(), "linux.devices.type cannot be \"q\"");
    }
}
