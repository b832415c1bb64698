//! The table over a runtime that does whatever its containers are called.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, CreateSandbox, Created, Event, EventKind,
    EventStream, Exec, ExitStatus, Handle, Key, KillScope, Pid, ProcessInfo, ProcessRef,
    ProcessState, SandboxId, SandboxStatus, Signal, Stats, Token, Update, WindowSize,
};
use runtime_task::{Method, messages};

use super::*;

struct Fake;

struct OneEvent(bool);

impl futures_core::Stream for OneEvent {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> std::task::Poll<Option<Event>> {
        let told = std::mem::replace(&mut self.0, true);
        std::task::Poll::Ready((!told).then(|| Event {
            sandbox: SandboxId::parse("s").unwrap(),
            container: ContainerId::parse("c").unwrap(),
            at: std::time::SystemTime::UNIX_EPOCH,
            kind: EventKind::Paused,
        }))
    }
}

#[async_trait]
impl Runtime for Fake {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn state(&self, process: &ProcessRef) -> Result<ProcessState> {
        match process.container.as_str() {
            "panics" => panic!("state panics"),
            "panics-later" => {
                tokio::task::yield_now().await;
                panic!("state panics later")
            }
            id => Err(Error::not_found(format!("container {id}"))),
        }
    }

    async fn wait(&self, _: &ProcessRef) -> Result<ExitStatus> {
        std::future::pending().await
    }

    async fn create_container(&self, request: CreateContainer) -> Result<Created> {
        let handle =
            Handle { container: request.id, key: Key::new(7), token: Token(b"token".to_vec()) };
        Ok(Created { handle, pid: Pid(9) })
    }

    async fn dial(&self, _: &SandboxId, _: u16) -> Result<std::os::fd::OwnedFd> {
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }

    fn events(&self) -> Result<EventStream> {
        Ok(Box::pin(OneEvent(false)))
    }

    // To be asked for anything else is a bug, which must be contained.

    async fn create_sandbox(&self, _: CreateSandbox) -> Result<Pid> {
        unreachable!()
    }
    async fn sandbox_status(&self, _: &SandboxId) -> Result<SandboxStatus> {
        unreachable!()
    }
    async fn delete_sandbox(&self, _: &SandboxId) -> Result<()> {
        unreachable!()
    }
    async fn start(&self, _: &ProcessRef) -> Result<Pid> {
        unreachable!()
    }
    async fn exec(&self, _: Exec) -> Result<()> {
        unreachable!()
    }
    async fn kill(&self, _: &ProcessRef, _: Signal, _: KillScope) -> Result<()> {
        unreachable!()
    }
    async fn delete(&self, _: &ProcessRef) -> Result<ExitStatus> {
        unreachable!()
    }
    async fn pause(&self, _: &ContainerId) -> Result<()> {
        unreachable!()
    }
    async fn resume(&self, _: &ContainerId) -> Result<()> {
        unreachable!()
    }
    async fn update(&self, _: Update) -> Result<()> {
        unreachable!()
    }
    async fn stats(&self, _: &ContainerId) -> Result<Stats> {
        unreachable!()
    }
    async fn pids(&self, _: &ContainerId) -> Result<Vec<ProcessInfo>> {
        unreachable!()
    }
    async fn resize_pty(&self, _: &ProcessRef, _: WindowSize) -> Result<()> {
        unreachable!()
    }
    async fn close_io(&self, _: &ProcessRef) -> Result<()> {
        unreachable!()
    }
    async fn attach(&self, _: &Token) -> Result<Handle> {
        Err(Error::not_found("the container of the token"))
    }
    async fn checkpoint(&self, _: &ContainerId, _: &Path) -> Result<()> {
        unreachable!()
    }
}

struct FakeLibrary;

impl Library for FakeLibrary {
    fn open(settings: Settings) -> Result<Arc<dyn Runtime>> {
        match settings.state_dir.to_str() {
            Some("/panics") => panic!("open panics"),
            _ => Ok(Arc::new(Fake)),
        }
    }
}

static TABLE: Api = table::<FakeLibrary>();

/// An open instance, driven as a daemon does.
struct Daemon(*mut Opaque);

struct Answer {
    tag: u64,
    key: u64,
    code: i32,
    fd: i32,
    event: u32,
    data: Vec<u8>,
}

fn take(outcome: Outcome) -> Answer {
    let mut data = Vec::new();
    if outcome.len > 0 {
        // SAFETY: what the table has handed out, copied and given back once.
        unsafe {
            data.extend_from_slice(std::slice::from_raw_parts(outcome.data, outcome.len));
            (TABLE.free)(outcome.data, outcome.len);
        }
    }
    let Outcome { tag, key, code, fd, event, .. } = outcome;
    Answer { tag, key, code, fd, event, data }
}

impl Daemon {
    fn open() -> Self {
        let mut instance = ptr::null_mut();
        // SAFETY: no options, and a place for the instance.
        assert_eq!(unsafe { (TABLE.open)(ptr::null(), &mut instance) }, 0);
        Self(instance)
    }

    fn submit(&self, tag: u64, method: u32, data: &[u8], timeout_ns: u64) -> Option<Answer> {
        let (key, data, len) = (0, data.as_ptr(), data.len());
        let request = Request { tag, key, method, reserved: 0, timeout_ns, data, len };
        let mut outcome = std::mem::MaybeUninit::uninit();
        // SAFETY: an open instance, and structs of this frame.
        match unsafe { (TABLE.submit)(self.0, &request, outcome.as_mut_ptr()) } {
            0 => None,
            // SAFETY: it was answered at once.
            1 => Some(take(unsafe { outcome.assume_init() })),
            other => panic!("submit answers {other}"),
        }
    }

    /// The next answer, or event.
    fn next(&self) -> Answer {
        // SAFETY: an open instance, whose descriptor lives as long.
        let fd = unsafe { BorrowedFd::borrow_raw((TABLE.fd)(self.0)) };
        let mut ready = [PollFd::new(fd, PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(10_000_u16)).unwrap(), 1);
        let mut outcome = std::mem::MaybeUninit::uninit();
        // SAFETY: an open instance, and room for one.
        assert_eq!(unsafe { (TABLE.reap)(self.0, outcome.as_mut_ptr(), 1) }, 1);
        // SAFETY: one was reaped.
        take(unsafe { outcome.assume_init() })
    }

    fn next_of(&self, tag: u64) -> Answer {
        loop {
            let answer = self.next();
            if answer.tag == tag {
                return answer;
            }
            assert_eq!(answer.tag, 0);
        }
    }

    fn cancel(&self, tag: u64) -> c_int {
        // SAFETY: an open instance.
        unsafe { (TABLE.cancel)(self.0, tag) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: the last call with it.
        unsafe { (TABLE.close)(self.0) };
    }
}

const STATE: u32 = Method::State as u32;
const WAIT: u32 = Method::Wait as u32;

fn named(id: &str) -> Vec<u8> {
    let request = messages::StateRequest { id: id.into(), ..Default::default() };
    runtime_task::convert::encode(&request).unwrap()
}

#[test]
fn the_table_is_that_of_one_version() {
    assert!(of_version(&TABLE, 1).is_null() && of_version(&TABLE, 3).is_null());
    assert_eq!(of_version(&TABLE, MAJOR), ptr::from_ref(&TABLE));
}

#[test]
fn what_can_be_answered_at_once_is() {
    let daemon = Daemon::open();
    let unknown = daemon.submit(1, STATE, &named("c"), 0).unwrap();
    assert_eq!((unknown.tag, unknown.code, unknown.fd), (1, 5, -1));
    assert_eq!(unknown.data, b"container c");
    let create =
        messages::CreateTaskRequest { id: "c".into(), bundle: "/b".into(), ..Default::default() };
    let create = runtime_task::convert::encode(&create).unwrap();
    let created = daemon.submit(2, Method::Create as u32, &create, 0).unwrap();
    assert_eq!((created.code, created.key), (0, 7));
    let response = runtime_task::convert::decode(&created.data).unwrap();
    assert_eq!(runtime_task::convert::created(&response), (Pid(9), Token(b"token".to_vec())));
    let dial = b"\x0a\x03pod\x10\x50";
    let dialled = daemon.submit(3, crate::abi::DIAL, dial, 0).unwrap();
    assert!(dialled.code == 0 && dialled.fd >= 0);
    // SAFETY: a descriptor in an answer is the caller's.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(dialled.fd) });
}

#[test]
fn a_panic_is_an_answer_and_the_instance_lives() {
    let daemon = Daemon::open();
    let inline = daemon.submit(1, STATE, &named("panics"), 0).unwrap();
    assert_eq!((inline.tag, inline.code), (1, 13));
    assert!(String::from_utf8(inline.data).unwrap().contains("state panics"));
    assert!(daemon.submit(2, STATE, &named("panics-later"), 0).is_none());
    assert_eq!(daemon.next_of(2).code, 13);
    assert_eq!(daemon.submit(3, Method::Pause as u32, &named("c"), 0).unwrap().code, 13);
    assert_eq!(daemon.submit(4, STATE, &named("c"), 0).unwrap().code, 5);
    let options = Options {
        size: size_of::<Options>(),
        config: ptr::null(),
        state_dir: c"/panics".as_ptr(),
        workers: 1,
        log: None,
        log_user: ptr::null_mut(),
    };
    let mut instance = ptr::null_mut();
    // SAFETY: options of this frame.
    assert_eq!(unsafe { (TABLE.open)(&options, &mut instance) }, 13);
    assert!(instance.is_null());
}

#[test]
fn a_pending_request_ends_by_its_deadline_or_by_cancel_and_once() {
    let daemon = Daemon::open();
    let began = Instant::now();
    assert!(daemon.submit(1, WAIT, &named("c"), 50_000_000).is_none());
    let expired = daemon.next_of(1);
    assert_eq!(expired.code, 4);
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert!(daemon.submit(2, WAIT, &named("c"), 0).is_none());
    assert_eq!(daemon.submit(2, WAIT, &named("c"), 0).unwrap().code, 3);
    assert_eq!(daemon.cancel(2), 0);
    assert_eq!(daemon.next_of(2).code, 1);
    assert_eq!((daemon.cancel(2), daemon.cancel(99)), (5, 5));
    // One that is pending does not keep an instance from closing.
    assert!(daemon.submit(3, WAIT, &named("c"), 0).is_none());
}

#[test]
fn events_come_with_their_number() {
    let daemon = Daemon::open();
    let event = daemon.next();
    assert_eq!((event.tag, event.event, event.code), (0, 8, 0));
    assert_eq!(event.data, b"\x0a\x01c");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let daemon = Daemon::open();
    for (method, data, code) in [
        (0, &b""[..], 12),
        (18, b"", 12),
        (u32::MAX, b"", 12),
        (STATE, b"", 3),
        (STATE, b"\xff\xff\xff", 3),
        (STATE, b"\x0a\x7fx", 3),
        (Method::Create as u32, &named("c"), 3),
        (crate::abi::ATTACH, b"anything", 5),
        (crate::abi::DIAL, b"", 3),
    ] {
        let answer = daemon.submit(1, method, data, 0).unwrap();
        assert_eq!(
            answer.code,
            code,
            "{method} {data:?}: {}",
            String::from_utf8_lossy(&answer.data)
        );
    }
    assert_eq!(daemon.submit(0, STATE, &named("c"), 0).unwrap().code, 3);
    let mut outcome = std::mem::MaybeUninit::uninit();
    // SAFETY: null is what is tried here.
    unsafe {
        assert_eq!((TABLE.submit)(daemon.0, ptr::null(), outcome.as_mut_ptr()), -libc::EINVAL);
        assert_eq!((TABLE.submit)(ptr::null_mut(), ptr::null(), ptr::null_mut()), -libc::EINVAL);
        assert_eq!((TABLE.reap)(daemon.0, ptr::null_mut(), 5), 0);
        assert_eq!((TABLE.fd)(ptr::null_mut()), -libc::EINVAL);
        assert_eq!((TABLE.open)(ptr::null(), ptr::null_mut()), 3);
        (TABLE.free)(ptr::null_mut(), 0);
        (TABLE.close)(ptr::null_mut());
    }
}
