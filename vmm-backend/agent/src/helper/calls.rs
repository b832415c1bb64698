//! The system calls of mounts, capabilities and filters, which no crate in use wraps.
#![expect(unsafe_code, reason = "these calls take structures by address and have no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_uint, c_ulong};

/// Attributes of a mount, set and cleared by [`change_mount`] (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

/// Whether what is mounted below is meant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Alone,
    Recursive,
}

impl Depth {
    fn flag(self) -> c_uint {
        match self {
            Self::Alone => 0,
            Self::Recursive => libc::AT_RECURSIVE as c_uint,
        }
    }
}

/// Copies the mount at `path`, an empty one for that of the descriptor (open_tree(2)).
pub(super) fn copy_mount(at: &impl AsFd, path: &CStr, depth: Depth) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_EMPTY_PATH as c_uint
        | depth.flag();
    let at = at.as_fd().as_raw_fd();
    // SAFETY: the path is a string that ends with a zero.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) })
}

/// Puts a copied mount where `place` is (move_mount(2)).
pub(super) fn attach_mount(mount: &OwnedFd, place: &impl AsFd) -> io::Result<()> {
    let (from, to) = (mount.as_raw_fd(), place.as_fd().as_raw_fd());
    let empty = c"".as_ptr();
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are strings that end with a zero.
    done(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) })
}

/// Changes a mount (mount_setattr(2)).
pub(super) fn change_mount(
    mount: &impl AsFd,
    depth: Depth,
    attributes: Attributes,
    propagation: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH as c_uint | depth.flag();
    let (fd, size) = (mount.as_fd().as_raw_fd(), size_of::<libc::mount_attr>());
    let (empty, address) = (c"".as_ptr(), &raw const attributes);
    // SAFETY: the structure has the size that is told and lives until the call returns.
    done(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, address, size) })
}

/// Sets the capabilities of this thread (capset(2)).
pub(super) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    let sets = [half(0), half(32)];
    // SAFETY: header and sets have the layout of version 3 and live until the call returns.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })
}

/// Takes a capability away for good; `false` when the kernel knows none of that number.
pub(super) fn drop_from_bounding_set(capability: u32) -> io::Result<bool> {
    let number = c_ulong::from(capability);
    // SAFETY: the call takes integers by value.
    match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
        Ok(_) => Ok(true),
        Err(Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the ambient set empty.
pub(super) fn clear_ambient_set() -> io::Result<()> {
    let what = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
    // SAFETY: the call takes integers by value.
    done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what, 0, 0, 0) }.into())
}

/// Adds to the ambient set.
pub(super) fn add_to_ambient_set(capability: u32) -> io::Result<()> {
    let (what, number) = (libc::PR_CAP_AMBIENT_RAISE as c_ulong, c_ulong::from(capability));
    // SAFETY: the call takes integers by value.
    done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what, number, 0, 0) }.into())
}

/// Puts this thread under a filter: the instructions of a `sock_filter` array, as bytes.
pub(super) fn load_filter(program: &[u8], flags: u32) -> io::Result<()> {
    let instructions: Vec<libc::sock_filter> = program
        .as_chunks::<8>()
        .0
        .iter()
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program names `len` instructions, which live until the call returns.
    done(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
}

/// Begins a session keyring of its own (keyctl(2)).
pub(super) fn join_session_keyring() -> io::Result<()> {
    let operation = libc::KEYCTL_JOIN_SESSION_KEYRING;
    // SAFETY: no name is one of the values that the call takes.
    done(unsafe { libc::syscall(libc::SYS_keyctl, operation, std::ptr::null::<libc::c_char>()) })
}

fn done(result: c_long) -> io::Result<()> {
    Ok(Errno::result(result).map(drop)?)
}

fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
