//! Mounting on the host: what containerd asks for, and taking it away again.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use runtime_api::{Error, ErrorKind, Mount, Result, ResultExt};

/// What mount(2) takes as data is one page, its final NUL included.
const MAX_DATA: usize = 4095;

/// Mounts a root filesystem, one layer of mounts over the other, on `target`.
///
/// # Errors
/// `InvalidArgument` for a mount that cannot be meant; `NotFound` for a missing source; `Internal`
/// naming type, source and target for what the kernel refuses.
pub(crate) fn mount_rootfs(mounts: &[Mount], target: &Path) -> Result<()> {
    for mount in mounts {
        let target = match mount.target.trim_start_matches('/') {
            "" => target.to_owned(),
            below => join_below(target, below)?,
        };
        let options = Options::parse(&mount.options)?;
        let kind = if mount.kind == "bind" { None } else { Some(mount.kind.as_str()) };
        mount_one(kind, Path::new(&mount.source), &target, &options)?;
    }
    Ok(())
}

/// Bind-mounts `source`, a file or a directory with all that is mounted below it, on `target`.
///
/// # Errors
/// `Internal` naming source and target.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    let options = Options { flags: MsFlags::MS_BIND | MsFlags::MS_REC, ..Options::default() };
    mount_one(None, source, target, &options)
}

/// Unmounts everything at and below `path`, the latest mount first. Idempotent.
///
/// # Errors
/// `Internal` naming the mount that stays.
pub(crate) fn unmount_below(path: &Path) -> Result<()> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").internal(|| "read /proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> =
        table.lines().filter_map(mount_point).filter(|point| point.starts_with(path)).collect();
    points.reverse();
    for point in points {
        match nix::mount::umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It has gone together with another one, or meanwhile.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => {
                return Err(
                    Error::internal(format!("unmount {}", point.display())).with_source(errno)
                );
            }
        }
    }
    Ok(())
}

/// The fifth field of a line of mountinfo (proc(5)), in which blanks are octal escapes.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        path.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4)?;
        path.push(char::from(u8::from_str_radix(code, 8).ok()?));
        rest = &rest[at + 4..];
    }
    path.push_str(rest);
    Some(path.into())
}

fn join_below(root: &Path, below: &str) -> Result<PathBuf> {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if Path::new(below).components().all(plain) {
        Ok(root.join(below))
    } else {
        Err(Error::invalid_argument(format!("mount target {below:?} leaves the root filesystem")))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MsFlags,
    propagation: MsFlags,
    data: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { flags: MsFlags::empty(), propagation: MsFlags::empty(), data: String::new() }
    }
}

impl Options {
    /// Sorts mount(8) options into flags, propagation and the filesystem's own data.
    fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut data = Vec::new();
        for option in options {
            if let Some((set, flag)) = flag(option) {
                parsed.flags.set(flag, set);
            } else if let Some(propagation) = propagation(option) {
                parsed.propagation |= propagation;
            } else if option == "loop" {
                return Err(Error::unimplemented("rootfs mount option \"loop\""));
            } else {
                data.push(option.as_str());
            }
        }
        parsed.data = data.join(",");
        if parsed.data.len() > MAX_DATA {
            return Err(Error::invalid_argument(format!(
                "mount options of {} bytes are longer than a page",
                parsed.data.len()
            )));
        }
        Ok(parsed)
    }
}

fn flag(option: &str) -> Option<(bool, MsFlags)> {
    Some(match option {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MsFlags> {
    Some(match option {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

fn mount_one(kind: Option<&str>, source: &Path, target: &Path, options: &Options) -> Result<()> {
    let call = |flags: MsFlags, data: Option<&str>| {
        nix::mount::mount(Some(source), target, kind, flags, data).map_err(|errno| {
            let error_kind = match errno {
                Errno::ENOENT => ErrorKind::NotFound,
                _ => ErrorKind::Internal,
            };
            let kind = kind.unwrap_or("bind");
            let message = format!("mount {kind} {} on {}", source.display(), target.display());
            Error::new(error_kind, message).with_source(errno)
        })
    };
    let data = Some(options.data.as_str()).filter(|data| !data.is_empty());
    call(options.flags, data)?;
    // The kernel ignores all other flags in the call that makes a bind mount.
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    if options.flags.contains(MsFlags::MS_BIND) && !(options.flags - bind).is_empty() {
        call((options.flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT, None)?;
    }
    if !options.propagation.is_empty() {
        call(options.propagation, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<Options> {
        Options::parse(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_sorted_into_what_mount_takes() {
        let overlay = options(&["index=off", "ro", "lowerdir=/a:/b", "rslave"]).unwrap();
        assert_eq!(overlay.flags, MsFlags::MS_RDONLY);
        assert_eq!(overlay.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(overlay.data, "index=off,lowerdir=/a:/b");
        assert_eq!(options(&["ro", "rw"]).unwrap().flags, MsFlags::empty());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_before_the_kernel_sees_it() {
        assert_eq!(options(&["loop"]).unwrap_err().kind(), ErrorKind::Unimplemented);
        let long = format!("lowerdir={}", "/x".repeat(3000));
        assert_eq!(options(&[&long]).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(join_below(Path::new("/r"), "a/../../b").is_err());
        assert_eq!(join_below(Path::new("/r"), "a/b").unwrap(), Path::new("/r/a/b"));
    }

    #[test]
    fn mount_points_with_blanks_are_read() {
        let line = r"36 35 98:0 / /run/a\040b/c rw,noatime shared:1 - tmpfs tmpfs rw";
        assert_eq!(mount_point(line).unwrap(), Path::new("/run/a b/c"));
    }
}
