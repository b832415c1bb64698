//! The terminal of a process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{fstat, makedev};
use nix::unistd::{Uid, fchown};
use runtime_api::{Result, ResultExt, WindowSize};

use super::calls::{Depth, attach_mount, copy_mount};
use super::root::{Kind, Root};
use super::spec::Process;
use crate::sys;

/// A pseudo terminal of a container.
pub(super) struct Console {
    pub(super) master: OwnedFd,
    slave: OwnedFd,
}

impl Console {
    /// Opens one for the user of `process`, in the devpts of the container.
    pub(super) fn open(root: &Root, process: &Process) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let master = OwnedFd::from(root.open_file(Path::new("/dev/ptmx"))?);
            // The image could hold anything under that name.
            if fstat(&master)?.st_rdev != makedev(5, 2) {
                return Err(Errno::ENXIO.into());
            }
            sys::unlock_terminal(&master)?;
            let slave = sys::open_peer(&master)?;
            fchown(&slave, Some(Uid::from_raw(process.user.uid)), None)?;
            if let Some(size @ WindowSize { width: 1.., height: 1.. }) = process.size {
                sys::set_window_size(&master, size)?;
            }
            Ok(Self { master, slave })
        };
        open().internal(|| "open a terminal in the container")
    }

    /// Shows it as `/dev/console`.
    pub(super) fn show(&self, root: &Root) -> Result<()> {
        let show = || -> io::Result<()> {
            let copy = copy_mount(&self.slave.as_fd(), c"", Depth::Alone)?;
            let place = root.find_or_make(Path::new("/dev/console"), Kind::File)?;
            attach_mount(&copy, &place)
        };
        show().internal(|| "show the terminal as /dev/console")
    }

    /// Splits it into the three streams of the process and the agent's end.
    pub(super) fn split(self) -> Result<([OwnedFd; 3], OwnedFd)> {
        let copy = || self.slave.try_clone().internal(|| "copy a terminal");
        let streams = [copy()?, copy()?, self.slave];
        Ok((streams, self.master))
    }
}
