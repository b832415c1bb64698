//! The root filesystem of a container, from a directory to `/`.
//!
//! ```text
//!   bind on itself ─► mounts ─► /dev ─► masks ─► read-only ─► pivot_root(2)
//! ```
//!
//! All of it happens while the guest's root is still there, for the sources of mounts and for the
//! guest's own /proc; paths of the container go through [`Root`].

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};
use runtime_api::{Error, Result, ResultExt};

use super::calls::{Attributes, Depth, attach_mount, change_mount, copy_mount};
use super::devices;
use super::mounts::set_propagation;
use super::root::{Kind, Root, is_directory};
use super::spec::Spec;

const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };

/// A root filesystem with everything in it, not yet the root of this process.
pub(super) struct Rootfs {
    root: Root,
}

impl Rootfs {
    /// Builds it in the mount namespace of this process, which is the container's.
    pub(super) fn build(spec: &Spec<'_>, bundle: &Path) -> Result<Self> {
        let path = bundle.join(&spec.root);
        if let Some(propagation) = spec.linux.propagation {
            propagate(propagation)?;
            keep_to_ourselves(&path)?;
        }
        let root = Root::from(bind_on_itself(&path)?);
        for mount in &spec.mounts {
            mount.make(&root, bundle)?;
        }
        if !has_devices_of_the_guest(spec) {
            devices::fill(&root, &spec.linux.devices)?;
        }
        // As the reference runtime: a working directory that is missing is made. Where that fails, it is
        // for the process to say that it cannot enter it.
        if let Err(error) = root.find_or_make(&spec.process.cwd, Kind::Directory) {
            log::debug!("make {}: {error}", spec.process.cwd.display());
        }
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Hides what the specification wants hidden, and fixes what it wants fixed.
    pub(super) fn protect(&self, spec: &Spec<'_>) -> Result<()> {
        for path in &spec.linux.read_only {
            self.make_read_only(path).internal(|| format!("make {path} read-only"))?;
        }
        mask(&self.root, &spec.linux.masked)?;
        if spec.root_is_read_only {
            change_mount(&self.root, Depth::Alone, READ_ONLY, 0)
                .internal(|| "make the root filesystem read-only")?;
        }
        Ok(())
    }

    fn make_read_only(&self, path: &str) -> std::io::Result<()> {
        let place = match self.root.find(Path::new(path)) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            place => place?,
        };
        let copy = copy_mount(&place, c"", Depth::Recursive)?;
        change_mount(&copy, Depth::Alone, READ_ONLY, 0)?;
        attach_mount(&copy, &place)
    }

    /// Makes it the root of this process and lets go of the guest's.
    pub(super) fn enter(&self, spec: &Spec<'_>) -> Result<()> {
        let pivot = || -> std::io::Result<()> {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let old = open("/", flags, Mode::empty())?;
            fchdir(&self.root)?;
            // The old root comes to lie above the new one, and is then taken away; not so from
            // those who see what is mounted and unmounted here.
            pivot_root(".", ".")?;
            if spec.linux.propagation.is_some() {
                set_propagation(&old, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
            }
            fchdir(&old)?;
            umount2(".", MntFlags::MNT_DETACH)?;
            Ok(chdir("/")?)
        };
        pivot().internal(|| "make the root filesystem the root")?;
        match spec.linux.propagation {
            Some(propagation) => propagate(propagation),
            None => Ok(()),
        }
    }
}

/// Sets how mounts made elsewhere appear in this namespace, and the other way round.
pub(super) fn propagate(propagation: MsFlags) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, propagation, None::<&str>)
        .internal(|| "set the propagation of the root")
}

/// Makes the mount that holds `path` private: pivot_root(2) asks for it, and the root must not appear
/// in other namespaces.
fn keep_to_ourselves(path: &Path) -> Result<()> {
    for ancestor in path.ancestors() {
        let describe = || format!("make the mount of {} private", path.display());
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let place = open(ancestor, flags, Mode::empty()).internal(describe)?;
        match set_propagation(&place, MsFlags::MS_PRIVATE) {
            // Not where something is mounted.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            changed => return changed.internal(describe),
        }
    }
    Ok(())
}

/// pivot_root(2) wants a mount, and what is made read-only must not be the directory itself.
fn bind_on_itself(path: &Path) -> Result<OwnedFd> {
    let describe = || format!("bind root filesystem {}", path.display());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let place = open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::ENOENT | Errno::ENOTDIR => {
            Error::not_found(format!("root filesystem {}", path.display()))
        }
        error => Error::internal(describe()).with_source(error),
    })?;
    let copy = copy_mount(&place, c"", Depth::Recursive).internal(describe)?;
    attach_mount(&copy, &place).internal(describe)?;
    Ok(copy)
}

/// Whether the specification shows another /dev, which is then complete.
fn has_devices_of_the_guest(spec: &Spec<'_>) -> bool {
    spec.mounts.iter().any(|mount| mount.is_bind() && mount.destination == Path::new("/dev"))
}

/// Covers files by the null device and directories by one empty filesystem.
fn mask(root: &Root, paths: &[String]) -> Result<()> {
    let mut empty = None;
    paths.iter().try_for_each(|path| {
        cover(root, Path::new(path), &mut empty).internal(|| format!("mask {path}"))
    })
}

fn cover(root: &Root, path: &Path, empty: &mut Option<OwnedFd>) -> std::io::Result<()> {
    let place = match root.find(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        place => place?,
    };
    if !is_directory(&place)? {
        let null = copy_mount(&AT_FDCWD, c"/dev/null", Depth::Alone)?;
        return attach_mount(&null, &place);
    }
    if let Some(empty) = empty {
        return attach_mount(&copy_mount(empty, c"", Depth::Alone)?, &place);
    }
    fchdir(&place)?;
    mount(Some("tmpfs"), ".", Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
    *empty = Some(root.find(path)?);
    Ok(())
}
