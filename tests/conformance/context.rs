//! What a case has: a runtime of its own, names, bundles, streams, events, and a notebook.

use std::fmt::Debug;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use conformance::Bundle;
use runtime_api::{
    ContainerId, CreateContainer, ErrorKind, Event, EventKind, KillScope, ProcessRef, Result,
    Runtime, RuntimeOptions, Signal,
};
use tokio::task::JoinHandle;

use crate::bounded::Bounded;
use crate::fault::{Fault, Faults};
use crate::process::{Process, Ran};
use crate::record::Observation;
use crate::streams::{Streams, Wanted};
use crate::target::{Door, Target};

/// What one run of a case has for itself.
pub(crate) struct Context {
    door: Door,
    runtime: Arc<dyn Runtime>,
    pub(crate) root: PathBuf,
    number: u32,
    names: AtomicU32,
    created: Mutex<Vec<ContainerId>>,
    observations: Mutex<Vec<Observation>>,
    deviations: Mutex<Vec<String>>,
    tolerated: Vec<(String, String)>,
    events: Arc<Mutex<Vec<Event>>>,
    listening: JoinHandle<()>,
}

impl Context {
    /// Opens a runtime below `root`. What is `tolerated` are observations, each with the value that
    /// differs from what the contract says.
    pub(crate) async fn open(
        door: Door,
        root: &Path,
        number: u32,
        tolerated: Vec<(String, String)>,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let (runtime, faults) = (Arc::clone(&door.runtime), Faults::new(fault));
        let runtime: Arc<dyn Runtime> = Arc::new(Bounded { runtime, faults });
        let mut stream = runtime.events()?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let listening = tokio::spawn(async move {
            while let Some(event) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
                heard.lock().unwrap().push(event);
            }
        });
        Ok(Self {
            door,
            runtime,
            root: root.to_owned(),
            number,
            names: AtomicU32::new(0),
            created: Mutex::default(),
            observations: Mutex::default(),
            deviations: Mutex::default(),
            tolerated,
            events,
            listening,
        })
    }

    pub(crate) fn runtime(&self) -> &dyn Runtime {
        &*self.runtime
    }

    pub(crate) fn shared(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.runtime)
    }

    // Notes -------------------------------------------------------------------------------------

    /// Notes what was seen; the same must be seen through every door.
    pub(crate) fn observe(&self, what: &str, value: impl Debug) {
        let mut observations = self.observations.lock().unwrap();
        assert!(observations.iter().all(|one| one.what != what), "{what} is observed twice");
        observations.push(Observation { what: what.to_owned(), value: format!("{value:?}") });
    }

    /// Notes what was seen, and that the contract asks for `wanted`.
    pub(crate) fn expect<T: Debug + PartialEq>(&self, what: &str, seen: T, wanted: T) {
        self.observe(what, &seen);
        if seen == wanted {
            return;
        }
        let told = format!("{what} is {seen:?}, not {wanted:?}");
        let tolerated = (what.to_owned(), format!("{seen:?}"));
        // The reference is not ours to be mended: the case goes on, to see all that is different.
        assert!(self.door.target == Target::Reference, "{told}");
        if !self.tolerated.contains(&tolerated) {
            self.deviations.lock().unwrap().push(told);
        }
    }

    /// Notes the kind of an error, and that the contract asks for `wanted`.
    pub(crate) fn refused<T: Debug>(&self, what: &str, seen: Result<T>, wanted: ErrorKind) {
        self.expect(what, seen.map(drop).map_err(|error| error.kind()), Err(wanted));
    }

    /// Notes the kind of an error for which the contract leaves several, but not "anything else".
    pub(crate) fn typed<T: Debug>(&self, what: &str, seen: Result<T>) {
        let kind = seen.map(drop).map_err(|error| error.kind());
        self.observe(what, kind);
        let told = kind.is_err() && kind != Err(ErrorKind::Internal);
        assert!(told || self.door.target == Target::Reference, "{what} is {kind:?}");
    }

    /// Notes that something succeeded, as the contract asks.
    pub(crate) fn allowed<T>(&self, what: &str, seen: Result<T>) {
        if let Err(error) = &seen
            && self.door.target != Target::Reference
        {
            panic!("{what}: {:?}: {}", error.kind(), error.chain());
        }
        self.expect(what, seen.map(drop).map_err(|error| error.kind()), Ok(()));
    }

    /// Notes how a process ended and what it wrote.
    pub(crate) fn ran(&self, what: &str, ran: Ran, code: u32, out: &str) {
        self.expect(what, (ran.code, ran.out, ran.err), (code, out.to_owned(), String::new()));
    }

    // Names and bundles -------------------------------------------------------------------------

    /// An id that no other case has.
    pub(crate) fn id(&self, name: &str) -> ContainerId {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        ContainerId::parse(format!("{name}-{}-{number}", self.number)).unwrap()
    }

    /// The init of a container that does not exist.
    pub(crate) fn unknown(&self) -> ProcessRef {
        ProcessRef::init(ContainerId::parse("unknown").unwrap())
    }

    /// Streams for one process.
    pub(crate) fn streams(&self, wanted: Wanted) -> (Streams, runtime_api::Stdio) {
        let name = format!("fifo-{}", self.names.fetch_add(1, Ordering::Relaxed));
        Streams::open(&self.root, &name, wanted)
    }

    /// What is asked for to run a bundle, and this end of the streams.
    pub(crate) fn request(&self, bundle: &Bundle, wanted: Wanted) -> (CreateContainer, Streams) {
        let id = self.id("c");
        let (streams, stdio) = self.streams(wanted);
        let bundle = bundle.write(&self.root, id.as_str());
        let (sandbox, rootfs, options) = (None, Vec::new(), RuntimeOptions::default());
        (CreateContainer { id, sandbox, bundle, rootfs, stdio, options }, streams)
    }

    // Containers --------------------------------------------------------------------------------

    /// Creates what was asked for.
    pub(crate) async fn create_as(
        &self,
        request: CreateContainer,
        streams: Streams,
    ) -> Result<Process<'_>> {
        let at = ProcessRef::init(request.id.clone());
        self.created.lock().unwrap().push(request.id.clone());
        let stdio = request.stdio.clone();
        let created = Some(self.runtime.create_container(request.clone()).await?);
        Ok(Process { context: self, at, streams, stdio, request: Some(request), created })
    }

    /// Creates a container.
    pub(crate) async fn try_create(&self, bundle: &Bundle, wanted: Wanted) -> Result<Process<'_>> {
        let (request, streams) = self.request(bundle, wanted);
        self.create_as(request, streams).await
    }

    /// Creates a container, which must succeed.
    pub(crate) async fn create_with(&self, bundle: &Bundle, wanted: Wanted) -> Process<'_> {
        let created = self.try_create(bundle, wanted).await;
        created.unwrap_or_else(|error| panic!("create: {:?} {}", error.kind(), error.chain()))
    }

    /// Creates a container of these words, without input or terminal.
    pub(crate) async fn create(&self, args: &[&str]) -> Process<'_> {
        self.create_with(&Bundle::running(args), Wanted::default()).await
    }

    /// Creates and starts one.
    pub(crate) async fn started(&self, args: &[&str]) -> Process<'_> {
        let process = self.create(args).await;
        process.start().await.unwrap_or_else(|error| panic!("start: {}", error.chain()));
        process
    }

    /// A container that sleeps until it is killed.
    pub(crate) async fn sleeping(&self) -> Process<'_> {
        self.started(&["sleep", "1000"]).await
    }

    /// Notes that something ends within `limit`, and answers what came of it.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let began = Instant::now();
        let done = work.await;
        self.expect(&format!("{what} within {limit:?}"), began.elapsed() <= limit, true);
        done
    }

    /// Runs a shell script in a container to its end.
    pub(crate) async fn shell(&self, script: &str) -> Ran {
        self.create(&["sh", "-c", script]).await.run().await
    }

    // Events ------------------------------------------------------------------------------------

    /// The events of a container so far, each in a few words.
    pub(crate) fn events_of(&self, container: &ContainerId) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let ours = events.iter().filter(|event| event.container == *container);
        ours.map(|event| words_of(&event.kind)).collect()
    }

    /// The events of a container when the one in these words has come.
    pub(crate) async fn events_until(&self, container: &ContainerId, last: &str) -> Vec<String> {
        for _ in 0..1000 {
            let events = self.events_of(container);
            if events.iter().any(|event| event == last) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no event {last:?} of {container}: {:?}", self.events_of(container));
    }

    // The end -----------------------------------------------------------------------------------

    /// Deletes what the case has left, and answers what it saw and what is wrong with it.
    pub(crate) async fn close(self) -> (Vec<Observation>, Vec<String>, Vec<String>) {
        let created = std::mem::take(&mut *self.created.lock().unwrap());
        for container in created.into_iter().rev() {
            let init = ProcessRef::init(container);
            if self.runtime.state(&init).await.is_err() {
                continue;
            }
            let _ = self.runtime.kill(&init, Signal::KILL, KillScope::All).await;
            let waiting = self.runtime.wait(&init);
            let _ = tokio::time::timeout(Duration::from_secs(5), waiting).await;
            let _ = self.runtime.delete(&init).await;
        }
        self.listening.abort();
        let marks = self.door.marks();
        drop(self.runtime);
        self.door.close().await;
        let observations = std::mem::take(&mut *self.observations.lock().unwrap());
        let deviations = std::mem::take(&mut *self.deviations.lock().unwrap());
        (observations, deviations, marks)
    }
}

fn words_of(kind: &EventKind) -> String {
    match kind {
        EventKind::Create { .. } => "create".to_owned(),
        EventKind::Start { .. } => "start".to_owned(),
        EventKind::Oom => "oom".to_owned(),
        EventKind::Exit { exec: None, exit, .. } => format!("exit {}", exit.code),
        EventKind::Exit { exec: Some(exec), exit, .. } => format!("exit {exec} {}", exit.code),
        EventKind::Delete { exit, .. } => format!("delete {}", exit.code),
        EventKind::ExecAdded { exec } => format!("exec-added {exec}"),
        EventKind::ExecStarted { exec, .. } => format!("exec-started {exec}"),
        EventKind::Paused => "paused".to_owned(),
        EventKind::Resumed => "resumed".to_owned(),
    }
}
