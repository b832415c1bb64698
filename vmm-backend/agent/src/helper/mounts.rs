//! The mounts of a container, made below its root before that becomes the root.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MsFlags, mount};
use nix::unistd::fchdir;
use runtime_api::{Error, Result, ResultExt};

use super::calls::{Attributes, Depth, attach_mount, change_mount, copy_mount};
use super::options::{Bind, Options};
use super::payload::lower;
use super::root::{Kind, Root, is_directory};
use super::spec::Object;

/// An entry of the specification's `mounts`.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    kind: String,
    source: Option<PathBuf>,
    options: Options,
}

impl Mount {
    pub(super) fn parse(mount: Object<'_>) -> Result<Self> {
        mount.refuse(&["mounts.uidMappings", "mounts.gidMappings"])?;
        let destination = PathBuf::from(mount.required("mounts.destination")?);
        let mut options = Options::parse(&mount.texts("mounts.options")?)?;
        let kind = mount.text("mounts.type")?.unwrap_or_default();
        // The type alone says it too, and as the type of what has the option it says nothing.
        if kind == "bind" && options.bind.is_none() {
            options.bind = Some(Bind::Alone);
        }
        Ok(Self {
            destination,
            // Guests have the second version only, under the name of the first.
            kind: if kind == "cgroup" { "cgroup2".into() } else { kind.into() },
            source: mount.text("mounts.source")?.map(PathBuf::from),
            options,
        })
    }

    pub(super) fn is_bind(&self) -> bool {
        self.options.bind.is_some()
    }

    /// Makes it. The working directory of this process is the bundle before and anything after.
    pub(super) fn make(&self, root: &Root, bundle: &Path) -> Result<()> {
        match self.options.bind {
            Some(bind) => self.bind(bind, root, bundle),
            None => self.mount(root, bundle),
        }
    }

    fn bind(&self, bind: Bind, root: &Root, bundle: &Path) -> Result<()> {
        let destination = self.destination.display();
        let Some(source) = &self.source else {
            return Err(Error::invalid_argument(format!("mount {destination}: no source")));
        };
        let source = bundle.join(source);
        let path = CString::new(source.as_os_str().as_bytes())
            .internal(|| format!("mount {destination}: source"))?;
        let depth = match bind {
            Bind::Alone => Depth::Alone,
            Bind::Recursive => Depth::Recursive,
        };
        let copy = copy_mount(&AT_FDCWD, &path, depth).map_err(|error| {
            let reason = lower(errno(&error));
            let message = format!("mount {destination}: source {}: {reason}", source.display());
            match error.kind() {
                io::ErrorKind::NotFound => Error::not_found(message),
                _ => Error::internal(message),
            }
        })?;
        let kind = match is_directory(&copy) {
            Ok(true) => Kind::Directory,
            _ => Kind::File,
        };
        self.change(&copy, self.options.own.only_set(), depth)
            .and_then(|()| self.propagate(&copy))
            .internal(|| format!("mount {destination}: {:?}", self.options))?;
        let place = self.place(root, kind)?;
        attach_mount(&copy, &place).internal(|| format!("mount {destination}"))
    }

    /// A filesystem of its own, mounted on the working directory, whose path nobody can exchange.
    fn mount(&self, root: &Root, bundle: &Path) -> Result<()> {
        let Options { flags, data, .. } = &self.options;
        let describe = || format!("mount {} on {}", self.kind, self.destination.display());
        let place = self.place(root, Kind::Directory)?;
        fchdir(&place).internal(describe)?;
        let name = self.source.clone().unwrap_or_else(|| self.kind.clone().into());
        match mount(Some(&name), ".", Some(self.kind.as_str()), *flags, Some(data.as_str())) {
            // A user namespace may not mount it, for the network that it shows is not its own but the
            // pod's. It gets to see the guest's, of which it may change nothing.
            Err(Errno::EPERM) if self.kind == "sysfs" => {
                return Self { source: Some("/sys".into()), ..self.clone() }.bind(
                    Bind::Recursive,
                    root,
                    bundle,
                );
            }
            mounted => mounted.internal(describe)?,
        }
        let more = self.options.recursive != Attributes::default();
        if more || !self.options.propagation.is_empty() {
            let mounted = root.find(&self.destination).internal(describe)?;
            self.change(&mounted, Attributes::default(), Depth::Alone)
                .and_then(|()| self.propagate(&mounted))
                .internal(describe)?;
        }
        Ok(())
    }

    fn place(&self, root: &Root, kind: Kind) -> Result<OwnedFd> {
        root.find_or_make(&self.destination, kind)
            .internal(|| format!("find or make the destination {}", self.destination.display()))
    }

    fn change(&self, mount: &OwnedFd, own: Attributes, depth: Depth) -> io::Result<()> {
        if own != Attributes::default() {
            change_mount(mount, Depth::Alone, own, 0)?;
        }
        let recursive = self.options.recursive;
        if recursive != Attributes::default() {
            change_mount(mount, depth, recursive, 0)?;
        }
        Ok(())
    }

    fn propagate(&self, mount: &OwnedFd) -> io::Result<()> {
        for flags in &self.options.propagation {
            set_propagation(mount, *flags)?;
        }
        Ok(())
    }
}

/// Changes how mounts made elsewhere appear below a mount.
pub(super) fn set_propagation(mount: &OwnedFd, flags: MsFlags) -> io::Result<()> {
    let depth = if flags.contains(MsFlags::MS_REC) { Depth::Recursive } else { Depth::Alone };
    let kind = (flags - MsFlags::MS_REC).bits();
    change_mount(mount, depth, Attributes::default(), kind)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: &Value) -> Mount {
        Mount::parse(Object::of(value, "mounts").unwrap()).unwrap()
    }

    #[test]
    fn a_bind_mount_is_one_by_type_or_by_option() {
        assert!(parse(&json!({"destination": "/a", "type": "bind"})).is_bind());
        assert!(parse(&json!({"destination": "/a", "options": ["rbind"]})).is_bind());
        let cgroup = parse(&json!({"destination": "/c", "type": "cgroup"}));
        assert_eq!((cgroup.is_bind(), cgroup.kind.as_str()), (false, "cgroup2"));
    }
}
