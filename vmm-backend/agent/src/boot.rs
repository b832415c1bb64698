//! From the kernel's hand to a guest in which containers can run.
//!
//! ```text
//!   kernel ─► movable root ─► filesystems ─► modules ─► cgroup tree ─► loopback ─► the port
//! ```
//!
//! Nothing here knows which sandbox this guest will be: a template is saved after it, and what
//! tells clones apart arrives with `Resume`.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{chdir, chroot};
use runtime_api::{Result, ResultExt};

use crate::{cgroup, sys};

/// Where the cgroup hierarchy (version 2) is.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Names the modules to load, one file name per line, in order, relative to its directory.
const MODULE_ORDER: &str = "/lib/modules/order";

struct Filesystem {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const NO_CODE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const FILESYSTEMS: [Filesystem; 8] = [
    Filesystem { kind: "proc", target: "/proc", flags: NO_CODE, options: "" },
    Filesystem { kind: "sysfs", target: "/sys", flags: NO_CODE, options: "" },
    Filesystem {
        kind: "devtmpfs",
        target: "/dev",
        flags: MsFlags::MS_NOSUID,
        options: "mode=0755",
    },
    Filesystem {
        kind: "devpts",
        target: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "gid=5,mode=0620,ptmxmode=0666",
    },
    Filesystem { kind: "tmpfs", target: "/dev/shm", flags: NO_CODE, options: "mode=1777" },
    Filesystem {
        kind: "tmpfs",
        target: "/run",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: "mode=0755",
    },
    Filesystem { kind: "tmpfs", target: "/tmp", flags: NO_CODE, options: "mode=1777" },
    // To join a cgroup is to wait for a grace period of the kernel, unless forks pay for that.
    Filesystem { kind: "cgroup2", target: CGROUP_ROOT, flags: NO_CODE, options: "favordynmods" },
];

/// Brings the guest up. Called once, by PID 1, before anything else.
///
/// # Errors
/// The step that failed; without it no container can run.
pub fn bring_up() -> Result<()> {
    make_root_movable().internal(|| "make a root that pivot_root(2) accepts")?;
    for filesystem in &FILESYSTEMS {
        mount_filesystem(filesystem)
            .internal(|| format!("mount {} on {}", filesystem.kind, filesystem.target))?;
    }
    // What is mounted later, the shared directory above all, has to appear in the mount namespaces
    // that are made before that.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
        .internal(|| "share the mounts of the guest")?;
    load_modules()?;
    cgroup::prepare()?;
    let inet = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .internal(|| "open a socket for the loopback interface")?;
    sys::bring_up_loopback(&inet).internal(|| "bring up the loopback interface")?;
    // The guest must outlive its containers when memory runs short.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        log::warn!("write -1000 to /proc/self/oom_score_adj: {error}");
    }
    Ok(())
}

/// Puts a mount above the initramfs, whose own root pivot_root(2) refuses to replace.
fn make_root_movable() -> io::Result<()> {
    fs::create_dir_all("/nr")?;
    let none = None::<&str>;
    mount(Some("/"), "/nr", none, MsFlags::MS_BIND, none)?;
    chdir("/nr")?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn mount_filesystem(filesystem: &Filesystem) -> io::Result<()> {
    fs::create_dir_all(filesystem.target)?;
    let Filesystem { kind, target, flags, options } = *filesystem;
    match mount(Some(kind), target, Some(kind), flags, Some(options)) {
        // The kernel has mounted it by itself (CONFIG_DEVTMPFS_MOUNT).
        Err(Errno::EBUSY) => Ok(()),
        result => Ok(result?),
    }
}

fn load_modules() -> Result<()> {
    let order = match fs::read_to_string(MODULE_ORDER) {
        Ok(order) => order,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).internal(|| format!("read {MODULE_ORDER}")),
    };
    let directory = Path::new(MODULE_ORDER).parent().unwrap_or(Path::new("/"));
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        let module = File::open(&path).internal(|| format!("open module {}", path.display()))?;
        match finit_module(&module, c"", ModuleInitFlags::empty()) {
            // A device that is not there, or a module that the kernel has built in.
            Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => {}
            Err(error) => log::warn!("load module {}: {error}", path.display()),
        }
    }
    Ok(())
}
