//! The system calls that neither the standard library nor nix wraps safely.
#![expect(unsafe_code, reason = "ioctl(2), fork(2) and received descriptors have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::ForkResult;
use runtime_api::WindowSize;
use tokio::io::unix::AsyncFd;

mod ioctls {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(add_entropy, nix::request_code_write!(b'R', 0x03, 8), super::Entropy);
    nix::ioctl_none!(reseed, b'R', 0x07);
    nix::ioctl_read_bad!(input_queue, libc::FIONREAD, libc::c_int);
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
    nix::ioctl_write_ptr_bad!(lock_terminal, libc::TIOCSPTLCK, libc::c_int);
    nix::ioctl_write_int_bad!(open_peer, libc::TIOCGPTPEER);
    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// The most entropy that is credited at once, in bytes.
pub(crate) const MAX_ENTROPY: usize = 512;

/// `struct rand_pool_info` of random(4), with its buffer.
#[repr(C)]
pub(crate) struct Entropy {
    bits: libc::c_int,
    size: libc::c_int,
    buffer: [u8; MAX_ENTROPY],
}

/// Credits `bytes` to the kernel's random number generator and reseeds it at once.
pub(crate) fn add_entropy(urandom: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut entropy = Entropy { bits: 0, size: 0, buffer: [0; MAX_ENTROPY] };
    let size = bytes.len().min(MAX_ENTROPY);
    entropy.buffer[..size].copy_from_slice(&bytes[..size]);
    entropy.size = size as libc::c_int;
    entropy.bits = entropy.size * 8;
    let fd = urandom.as_fd().as_raw_fd();
    // SAFETY: `entropy` has the layout that the call reads, and `size` bytes follow its header.
    unsafe { ioctls::add_entropy(fd, &raw const entropy) }?;
    // SAFETY: the call takes no argument.
    unsafe { ioctls::reseed(fd) }?;
    Ok(())
}

/// How many bytes are queued in a pipe or terminal.
pub(crate) fn queued(fd: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int to the address it is given.
    unsafe { ioctls::input_queue(fd.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(terminal: &impl AsFd, size: WindowSize) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads one winsize from the address it is given.
    unsafe { ioctls::set_window_size(terminal.as_fd().as_raw_fd(), &raw const size) }?;
    Ok(())
}

/// Makes a terminal the controlling one of this session.
pub(crate) fn set_controlling_terminal(terminal: &impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes an int by value.
    unsafe { ioctls::set_controlling_terminal(terminal.as_fd().as_raw_fd(), 0) }?;
    Ok(())
}

/// Lets the slave of a pseudo terminal be opened.
pub(crate) fn unlock_terminal(master: &impl AsFd) -> io::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the call reads one int from the address it is given.
    unsafe { ioctls::lock_terminal(master.as_fd().as_raw_fd(), &raw const unlocked) }?;
    Ok(())
}

/// Opens the slave of a pseudo terminal by its master, without a path that others could replace.
pub(crate) fn open_peer(master: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the call takes an int by value.
    let fd = unsafe { ioctls::open_peer(master.as_fd().as_raw_fd(), flags) }?;
    // SAFETY: the call has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn bring_up_loopback(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: an ifreq consists of integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the call reads one ifreq from the address it is given.
    unsafe { ioctls::set_interface_flags(socket.as_fd().as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Takes ownership of descriptors that a peer has sent (SCM_RIGHTS in unix(7)).
pub(crate) fn received(fds: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the kernel has just installed these descriptors for the message they came with.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Takes over standard input as the descriptor that the parent has handed down.
///
/// Called once, at the beginning of a program that uses standard input for nothing else.
pub(crate) fn inherited_stdin() -> OwnedFd {
    // SAFETY: the caller promises that nothing else in the program uses descriptor 0.
    unsafe { OwnedFd::from_raw_fd(0) }
}

/// Gives SIGPIPE its default action back, which Rust's start-up code takes from every program and
/// which execve(2) would not restore.
pub(crate) fn restore_sigpipe() -> io::Result<()> {
    // SAFETY: no handler is installed; the default action is not code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Leaves the next program no descriptor but the three streams.
pub(crate) fn close_the_rest_on_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call takes integers by value and closes nothing now.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) })?;
    Ok(())
}

/// Sets the NIS domain name (setdomainname(2)).
pub(crate) fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the call reads as many bytes as it is told.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })?;
    Ok(())
}

/// Sets how nice this process is to others, from -20 to 19 (setpriority(2)).
pub(crate) fn set_niceness(niceness: i8) -> io::Result<()> {
    // SAFETY: the call takes integers by value.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness.into()) })?;
    Ok(())
}

/// What the heap keeps at hand beyond what is used, in bytes.
const HEAP_RESERVE: libc::c_int = 256 << 10;

/// Takes all memory that this process has and will soon need into its page tables. A clone that
/// touches a page for the first time runs code of the kernel for the first time, too.
pub(crate) fn keep_resident() {
    for (parameter, value) in [
        (libc::M_TOP_PAD, HEAP_RESERVE),
        (libc::M_TRIM_THRESHOLD, 16 * HEAP_RESERVE),
        // A chunk of output comes from there too, and not from pages that are cleared for each.
        (libc::M_MMAP_THRESHOLD, 8 * HEAP_RESERVE),
    ] {
        // SAFETY: the call takes integers, and changes nothing of what is allocated.
        unsafe { libc::mallopt(parameter, value) };
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        log::warn!("lock the memory of process {}: {error}", std::process::id());
    }
}

/// Undoes the locking: the limits and rights of a container may not allow for any more of it.
pub(crate) fn unlock_memory() -> io::Result<()> {
    Ok(munlockall()?)
}

/// The knowledge that this process has one thread and will make no other.
pub(crate) struct SingleThread(());

impl SingleThread {
    /// Counts the threads, which takes this process's own /proc: do it before joining a namespace.
    ///
    /// # Errors
    /// `EINVAL` when there is more than one.
    pub(crate) fn verify() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Duplicates this process.
    pub(crate) fn fork(&self) -> io::Result<ForkResult> {
        // SAFETY: there is one thread, so that no lock is taken whose owner the child would lack.
        Ok(unsafe { nix::unistd::fork() }?)
    }
}

/// kill(2) with any signal number; nix knows those with a name only.
pub(crate) fn kill(pid: nix::unistd::Pid, signal: u8) -> nix::Result<()> {
    // SAFETY: the call takes two integers by value.
    Errno::result(unsafe { libc::kill(pid.as_raw(), libc::c_int::from(signal)) }).map(drop)
}

/// Opens a process as a descriptor (pidfd_open(2)).
pub(crate) fn open_pidfd(pid: nix::unistd::Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers by value.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a descriptor nonblocking and watches it.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: an OwnedFd names the same open file for as long as it lives.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
