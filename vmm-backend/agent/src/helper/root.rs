//! Paths inside of a root filesystem that somebody else has made.
//!
//! Everything below the root may be a symbolic link, put there to lead out of it. So each path is
//! resolved by the kernel with that root as its own, and the links of /proc, which jump anywhere,
//! are not followed; what is used from then on is the descriptor and no path.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// The root of a container, as a descriptor.
pub(super) struct Root(OwnedFd);

/// What has to be at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Root {
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl Root {
    /// Opens what is at a path, for nothing but as a place.
    pub(super) fn find(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH)
    }

    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            // A rename elsewhere in the tree makes the kernel give up now and then.
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// As [`Root::find`], after making what is not there, an empty file or directory.
    pub(super) fn find_or_make(&self, path: &Path, kind: Kind) -> nix::Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        match kind {
            Kind::Directory => self.make_directory(path),
            Kind::File => {
                let (parent, name) = self.parent_of(path)?;
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
                openat(&parent, name.as_os_str(), flags, Mode::from_bits_truncate(0o755))?;
                self.find(path)
            }
        }
    }

    /// The directory that holds the last component of a path, made if need be.
    pub(super) fn parent_of(&self, path: &Path) -> nix::Result<(OwnedFd, PathBuf)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.find_or_make(parent, Kind::Directory)?, name.into()))
    }

    fn make_directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        let mut reached = PathBuf::new();
        let mut directory = self.find(Path::new("/"))?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                _ => continue,
            };
            reached.push(name);
            directory = match self.find(&reached) {
                Err(Errno::ENOENT) => {
                    // A link that leads nowhere exists and fails here.
                    mkdirat(&directory, name, Mode::from_bits_truncate(0o755))?;
                    self.find(&reached)?
                }
                found => found?,
            };
        }
        Ok(directory)
    }

    /// Opens a file that is there for reading and writing.
    pub(super) fn open_file(&self, path: &Path) -> io::Result<File> {
        Ok(self.open(path, OFlag::O_RDWR | OFlag::O_NOCTTY).map(File::from)?)
    }
}

/// Whether a descriptor is of a directory.
pub(super) fn is_directory(fd: &impl AsFd) -> nix::Result<bool> {
    let mode = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
    Ok(mode == SFlag::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root_at(path: &Path) -> Root {
        Root::from(OwnedFd::from(File::open(path).unwrap()))
    }

    #[test]
    fn what_is_missing_is_made_inside_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        fs::create_dir(&inside).unwrap();
        symlink("/", inside.join("slash")).unwrap();
        symlink("../../..", inside.join("up")).unwrap();
        let root = root_at(&inside);
        for (path, made) in [
            ("/a/b/c", "a/b/c"),
            ("/slash/d", "d"),
            ("/up/e/f", "e/f"),
            ("../../g", "g"),
            ("/a/../h/i", "h/i"),
        ] {
            let place = root.find_or_make(Path::new(path), Kind::Directory).unwrap();
            assert!(is_directory(&place).unwrap());
            assert!(inside.join(made).is_dir(), "{path}");
        }
        let place = root.find_or_make(Path::new("/up/etc/hosts"), Kind::File).unwrap();
        assert!(!is_directory(&place).unwrap());
        assert!(inside.join("etc/hosts").is_file());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_jumps_is_not_followed() {
        let inside = tempfile::tempdir().unwrap();
        symlink("/proc/self/root", inside.path().join("jump")).unwrap();
        symlink("nowhere", inside.path().join("dangling")).unwrap();
        let root = root_at(inside.path());
        fs::create_dir(inside.path().join("proc")).unwrap();
        let error = root.find(Path::new("/jump/etc")).unwrap_err();
        assert_eq!(error, Errno::ENOENT);
        let error = root.find_or_make(Path::new("/dangling/x"), Kind::Directory).unwrap_err();
        assert_eq!(error, Errno::EEXIST);
        let proc = Root::from(OwnedFd::from(File::open("/proc").unwrap()));
        assert_eq!(proc.find(Path::new("self/root/etc")).unwrap_err(), Errno::ELOOP);
    }
}
