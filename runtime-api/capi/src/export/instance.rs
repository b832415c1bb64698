//! One open instance: an executor, a runtime, and the requests that are under way.

use std::collections::HashMap;
use std::future::poll_fn;
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use runtime_api::{Error, EventStream, Key, Result, ResultExt, Runtime, Token};
use runtime_task::{Method, TaskServer, convert, event_envelope};
use tokio::runtime::Builder;
use tokio::task::AbortHandle;

use super::log::Sink;
use super::queue::{Completion, Queue};
use super::{Library, Settings, broken};
use crate::abi::{ATTACH, DIAL, event_number};

/// How long work that is under way may take to notice that it is given up.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A request.
pub(super) struct Call {
    pub(super) tag: u64,
    pub(super) key: u64,
    pub(super) method: u32,
    pub(super) timeout_ns: u64,
    pub(super) payload: Vec<u8>,
}

/// What a request is answered with.
struct Answer {
    key: Option<Key>,
    fd: Option<OwnedFd>,
    payload: Vec<u8>,
}

type Answering = Pin<Box<dyn Future<Output = Completion> + Send>>;

/// An open instance.
pub(super) struct Instance {
    executor: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    log: Arc<Sink>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    tasks: TaskServer,
    queue: Queue,
    pending: Mutex<HashMap<u64, Pending>>,
}

/// A request that is under way.
struct Pending {
    key: u64,
    waiting: AbortHandle,
}

impl Instance {
    pub(super) fn open<L: Library>(
        settings: Settings,
        workers: u32,
        log: Arc<Sink>,
    ) -> Result<Self> {
        let executor = start_executor(workers)?;
        let opened = {
            let _entered = executor.enter();
            L::open(settings).and_then(|runtime| Shared::new(runtime).map(Arc::new))
        };
        let shared = opened?;
        let events = shared.runtime.events()?;
        executor.spawn(pass_events(Arc::clone(&shared), events));
        Ok(Self { executor, shared, log })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.shared.queue.fd()
    }

    /// Answers at once if that is possible.
    pub(super) fn submit(&self, call: Call) -> Option<Completion> {
        let (tag, key) = (call.tag, call.key);
        if tag == 0 {
            let error = Error::invalid_argument("the tag 0 is that of events");
            return Some(Completion::failed(tag, key, &error));
        }
        let _entered = self.executor.enter();
        let mut answering = Arc::clone(&self.shared).answer(call);
        // A future that is not ready is polled again, with another waker, as soon as it is spawned.
        if let Poll::Ready(completion) =
            answering.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            return Some(completion);
        }
        let mut pending = self.shared.pending();
        if pending.contains_key(&tag) {
            let error =
                Error::invalid_argument(format!("the tag {tag} is that of another request"));
            return Some(Completion::failed(tag, key, &error));
        }
        let shared = Arc::clone(&self.shared);
        let task = self.executor.spawn(async move {
            let completion = answering.await;
            // Whoever takes the request out of the table answers it.
            if shared.pending().remove(&tag).is_some() {
                shared.queue.push(completion);
            }
        });
        pending.insert(tag, Pending { key, waiting: task.abort_handle() });
        None
    }

    pub(super) fn reap(&self, max: usize) -> Vec<Completion> {
        self.shared.queue.take(max)
    }

    pub(super) fn cancel(&self, tag: u64) -> Result<()> {
        let taken = self.shared.pending().remove(&tag);
        let Pending { key, waiting } =
            taken.ok_or_else(|| Error::not_found(format!("a pending request of tag {tag}")))?;
        waiting.abort();
        let error = Error::cancelled("the caller has stopped waiting");
        self.shared.queue.push(Completion::failed(tag, key, &error));
        Ok(())
    }

    pub(super) fn close(self) {
        self.executor.shutdown_timeout(CLOSE_DEADLINE);
        drop(self.log);
    }
}

/// Starts the threads of the executor. Signals are the daemon's: ours take none.
fn start_executor(workers: u32) -> Result<tokio::runtime::Runtime> {
    let block = || pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .internal(|| "block signals")?;
    let built = Builder::new_multi_thread()
        .worker_threads(usize::try_from(workers).unwrap_or(1))
        .thread_name("vmrt")
        // Threads that are started later inherit the mask of a thread of the daemon.
        .on_thread_start(move || {
            let _ = block();
        })
        .enable_all()
        .build();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)
        .internal(|| "restore the signal mask")?;
    built.internal(|| "start the executor")
}

async fn pass_events(shared: Arc<Shared>, mut events: EventStream) {
    while let Some(event) = poll_fn(|context| events.as_mut().poll_next(context)).await {
        match event_envelope(&event) {
            Ok((_, message)) => {
                let event = event_number(&event.kind);
                shared.queue.push(Completion { event, ..Completion::answer(0, 0, message.value) });
            }
            Err(error) => log::error!("an event is lost: {}", error.chain()),
        }
    }
}

impl Shared {
    fn new(runtime: Arc<dyn Runtime>) -> Result<Self> {
        let tasks = TaskServer::new(Arc::clone(&runtime));
        Ok(Self { runtime, tasks, queue: Queue::new()?, pending: Mutex::default() })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a request asks for. A panic is an answer like any other.
    fn answer(self: Arc<Self>, call: Call) -> Answering {
        let Call { tag, key, method, timeout_ns, payload } = call;
        Box::pin(async move {
            let answer = contained(self.carry_out(Key::new(key), method, payload));
            let answer = match timeout_ns {
                0 => answer.await,
                _ => within(Duration::from_nanos(timeout_ns), answer).await,
            };
            match answer {
                Ok(Answer { key, fd, payload }) => {
                    let key = key.map_or(0, Key::number);
                    Completion { fd, ..Completion::answer(tag, key, payload) }
                }
                Err(error) => {
                    log::debug!("method {method}: {}", error.chain());
                    Completion::failed(tag, key, &error)
                }
            }
        })
    }

    async fn carry_out(&self, key: Option<Key>, method: u32, payload: Vec<u8>) -> Result<Answer> {
        match method {
            ATTACH => self.attach(payload).await,
            DIAL => {
                let (sandbox, port) = convert::dial(&payload)?;
                let fd = Some(self.runtime.dial(&sandbox, port).await?);
                Ok(Answer { key, fd, payload: Vec::new() })
            }
            _ => {
                let method = Method::from_number(method).ok_or_else(|| {
                    Error::unimplemented(format!("there is no method {method} in this table"))
                })?;
                let answer = self.tasks.dispatch_by(key, method, &payload).await?;
                Ok(Answer { key: answer.key, fd: None, payload: answer.payload })
            }
        }
    }

    async fn attach(&self, token: Vec<u8>) -> Result<Answer> {
        let handle = self.runtime.attach(&Token(token)).await?;
        let init = runtime_api::ProcessRef::init(handle.container);
        let state = self.runtime.state(&init).await?;
        let payload = convert::encode(&convert::state_response(&init, state))?;
        Ok(Answer { key: handle.key, fd: None, payload })
    }
}

/// Gives up waiting, not the work: what changes something is finished by the runtime.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::deadline_exceeded(format!("there was no answer within {limit:?}")))
    })
}

/// Turns a panic of `work` into an error.
async fn contained<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(broken(panic.as_ref()))))
    })
    .await
}
