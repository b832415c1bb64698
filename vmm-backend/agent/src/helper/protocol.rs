//! What the agent and its helper say to each other, over a pair of SOCK_SEQPACKET sockets.
//!
//! Both ends are the same program, so that the form needs no version. A request that exceeds a
//! packet, as the environment of a process may, travels in a memfd_create(2) file.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The longest packet; error messages are cut to fit.
const MAX_PACKET: usize = 1 << 14;
/// In the place of a request that is in the first descriptor.
const IN_FILE: &[u8] = b"f";
const MAX_MESSAGE: usize = 1 << 12;

/// What a helper is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Create(Create),
    Exec(Exec),
    Update(Update),
}

/// The init process of a container. The descriptors are its streams, none for a terminal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) terminal: bool,
}

/// An additional process. The descriptors are a pidfd of the init process, the filter if there is
/// one, then the streams, none for a terminal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) cgroup: PathBuf,
    pub(crate) terminal: bool,
    pub(crate) confinement: Confinement,
    /// The `process` object, as JSON.
    pub(crate) process: String,
}

/// Other limits. There are no descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) cgroup: PathBuf,
    /// The `linux.resources` object, as JSON.
    pub(crate) resources: String,
}

/// What an exec has to know of its container.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) has_user_namespace: bool,
    pub(crate) has_filter: bool,
}

/// What a helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A child goes on in the place of the helper, which ends; more follows.
    Born { pid: i32 },
    /// This helper cannot do that, and ends; another kind of helper can.
    Unsuited,
    /// The cgroup is about to be made and joined; more follows.
    Joining { cgroup: PathBuf },
    /// Everything is there. The descriptors are the filter and the master of the terminal, as far as
    /// there are any. `pid` is the process, unless that was born.
    Done { pid: Option<i32>, confinement: Confinement },
    /// Nothing is there.
    Failed { fault: Fault, message: String },
}

/// The kinds of errors that a helper tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    NotFound,
    InvalidArgument,
    FailedPrecondition,
    Unimplemented,
    Internal,
}

impl Fault {
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::InvalidArgument => Self::InvalidArgument,
            ErrorKind::FailedPrecondition => Self::FailedPrecondition,
            ErrorKind::Unimplemented => Self::Unimplemented,
            _ => Self::Internal,
        }
    }

    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::InvalidArgument => ErrorKind::InvalidArgument,
            Self::FailedPrecondition => ErrorKind::FailedPrecondition,
            Self::Unimplemented => ErrorKind::Unimplemented,
            Self::Internal => ErrorKind::Internal,
        }
    }
}

impl Reply {
    pub(crate) fn failed(error: &Error) -> Self {
        let mut message = error.chain();
        let end = message.len().min(MAX_MESSAGE);
        message.truncate((0..=end).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0));
        Self::Failed { fault: Fault::of(error.kind()), message }
    }
}

/// One end of the pair.
pub(crate) struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Channel {
    /// Makes a pair.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let pair =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        pair.map(|(ours, theirs)| (Self(ours), Self(theirs))).internal(|| "make a socket pair")
    }

    pub(crate) fn into_socket(self) -> OwnedFd {
        self.0
    }

    /// Sends a request with its descriptors. It does not wait for the other end.
    pub(crate) fn send_request(socket: &OwnedFd, request: &Request, fds: &[OwnedFd]) -> Result<()> {
        let send = || -> io::Result<()> {
            let text = serde_json::to_vec(request)?;
            let mut numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            if text.len() <= MAX_PACKET {
                return send_packet(socket, &text, &numbers);
            }
            let mut file = File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&text)?;
            file.rewind()?;
            numbers.insert(0, file.as_raw_fd());
            send_packet(socket, IN_FILE, &numbers)
        };
        send().internal(|| "send a request to a helper")
    }

    /// Waits for the request and its descriptors; `None` when the agent has no use for this helper.
    pub(crate) fn receive_request(&self) -> Result<Option<(Request, Vec<OwnedFd>)>> {
        let receive = || -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
            let (mut text, mut fds) = receive_packet(&self.0)?;
            if text.is_empty() {
                return Ok(None);
            }
            if text == IN_FILE && !fds.is_empty() {
                text.clear();
                File::from(fds.remove(0)).read_to_end(&mut text)?;
            }
            Ok(Some((serde_json::from_slice(&text)?, fds)))
        };
        receive().internal(|| "receive the request of the agent")
    }

    /// Answers.
    pub(crate) fn send_reply(&self, reply: &Reply, fds: &[&OwnedFd]) -> Result<()> {
        let numbers: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let send = || send_packet(&self.0, &serde_json::to_vec(reply)?, &numbers);
        send().internal(|| "answer the agent")
    }

    /// Receives one answer; `None` when the helper has gone.
    pub(crate) fn receive_reply(socket: &OwnedFd) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        let (packet, fds) = receive_packet(socket)?;
        if packet.is_empty() {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&packet)?, fds)))
    }

    /// Waits until the agent says that the program may run; `false` when it never will.
    ///
    /// By read(2), which a filter that is loaded already hardly forbids.
    pub(crate) fn await_start(&self) -> io::Result<bool> {
        Ok(nix::unistd::read(&self.0, &mut [0; 1])? > 0)
    }

    /// Says so.
    pub(crate) fn say_start(socket: &OwnedFd) -> io::Result<()> {
        send_packet(socket, b"s", &[])
    }
}

fn send_packet(socket: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let data = [IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive_packet(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut control = cmsg_space!([RawFd; 8]);
    let mut data = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(sys::received(received));
        }
    }
    let length = message.bytes;
    bytes.truncate(length);
    Ok((bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_whole_with_its_descriptors() {
        for length in [10, MAX_PACKET - 1, 1 << 20] {
            arrives(length);
        }
    }

    fn arrives(length: usize) {
        let (ours, theirs) = Channel::pair().unwrap();
        let request = Request::Exec(Exec {
            cgroup: "/c".into(),
            terminal: false,
            confinement: Confinement::default(),
            process: "x".repeat(length),
        });
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        Channel::send_request(&ours.0, &request, &[null(), null()]).unwrap();
        let Some((Request::Exec(exec), fds)) = theirs.receive_request().unwrap() else { panic!() };
        assert_eq!((exec.process.len(), fds.len()), (length, 2));
        drop(ours);
        assert!(theirs.receive_request().unwrap().is_none());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = Error::not_found("é".repeat(MAX_MESSAGE));
        let (ours, theirs) = Channel::pair().unwrap();
        theirs.send_reply(&Reply::failed(&error), &[]).unwrap();
        let reply = Channel::receive_reply(&ours.0).unwrap().unwrap().0;
        let Reply::Failed { fault, message } = reply else { panic!() };
        assert_eq!((fault, message.len()), (Fault::NotFound, MAX_MESSAGE));
        drop(theirs);
        assert!(Channel::receive_reply(&ours.0).unwrap().is_none());
    }
}
