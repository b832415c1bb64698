//! The library: the same runtime in this process, without a shim.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::{Bundle, part};
use runtime_api::{
    ContainerId, CreateContainer, KillScope, ProcessRef, RuntimeOptions, Signal, Stdio,
};
use runtime_capi::load::{self, Instance, Library, Options};
use runtime_task::Method;

use crate::bench::{Bench, millis, progress};
use crate::failure::Failure;
use crate::interrupt::check;
use crate::report::{Findings, Measure, Unit};
use crate::rows::Row;

/// Calls that are timed together: one takes less than the clock can tell.
const TOGETHER: u32 = 100;
/// Waits that are pending at once.
const WAITS: u32 = 1000;

pub(crate) const ROWS: &[Row] = &[Row {
    name: "library",
    title: "the library: calls over its table, and what it needs for waits and sandboxes",
    measures: &["library_"],
    measure: library,
}];

fn library(bench: &Bench) -> Result<Findings, Failure> {
    progress("library");
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| Failure::io("make a runtime", source))?;
    let options = |name: &str| Options {
        config: Some(bench.daemon.directory().join("vmrt.toml")),
        state_dir: Some(bench.daemon.directory().join(name)),
        workers: 0,
    };
    let library = Library::load(&part("VMRT_LIBRARY")).map_err(unexpected)?;
    let instance = Instance::open(library, &options("n")).map_err(unexpected)?;
    let mut measures = vec![nop(bench, &instance)?];
    drop(instance);

    let _entered = executor.enter();
    let runtime = load::open(&part("VMRT_LIBRARY"), &options("l")).map_err(unexpected)?;
    let mut pods = Pods { runtime, executor: executor.handle().clone(), ids: Vec::new() };
    measures.extend(sandboxes(bench, &mut pods)?);
    measures.extend(calls(bench, &pods)?);
    Ok(Findings::of(measures).note(
        "library_async goes through the queue and the descriptor; of library_start the guest's part is that of a start",
    ))
}

fn unexpected(error: runtime_api::Error) -> Failure {
    Failure::Unexpected(error.chain())
}

/// What the way through the table costs by itself: Shutdown does nothing.
fn nop(bench: &Bench, instance: &Instance) -> Result<Measure, Failure> {
    let mut samples = Vec::new();
    for _ in 0..bench.plan.calls {
        check()?;
        let began = Instant::now();
        for tag in 1..=TOGETHER {
            let answer = instance.submit(tag.into(), Method::Shutdown as u32, &[], 0);
            match answer.map_err(unexpected)? {
                Some(answer) if answer.code == 0 => {}
                other => return Err(Failure::Unexpected(format!("Shutdown answers {other:?}"))),
            }
        }
        samples.push(microseconds(began.elapsed() / TOGETHER));
    }
    Ok(Measure::alone("library_nop", Unit::Microseconds, samples))
}

/// The sandboxes of a measurement. They would live on; so they are ended when this is dropped.
struct Pods {
    runtime: Arc<dyn runtime_api::Runtime>,
    executor: tokio::runtime::Handle,
    ids: Vec<(ContainerId, runtime_api::Token)>,
}

impl Pods {
    fn start(&mut self, bench: &Bench) -> Result<Duration, Failure> {
        let name = bench.new_id();
        let bundles = bench.daemon.directory().join("bundles");
        fs::create_dir_all(&bundles).map_err(|source| Failure::io("make a directory", source))?;
        let request = CreateContainer {
            id: ContainerId::parse(name.clone()).map_err(unexpected)?,
            sandbox: None,
            bundle: Bundle::running(&["sleep", "1000"]).write(&bundles, &name),
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            options: RuntimeOptions::default(),
        };
        let process = ProcessRef::init(request.id.clone());
        let began = Instant::now();
        self.executor.block_on(async {
            let created = self.runtime.create_container(request).await.map_err(unexpected)?;
            self.ids.push((process.container.clone(), created.handle.token));
            self.runtime.start(&process).await.map_err(unexpected)
        })?;
        Ok(began.elapsed())
    }

    fn first(&self) -> Result<&(ContainerId, runtime_api::Token), Failure> {
        self.ids.first().ok_or_else(|| Failure::Unexpected("there is no sandbox".into()))
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for (id, _) in self.ids.drain(..) {
            let process = ProcessRef::init(id);
            let runtime = &self.runtime;
            self.executor.block_on(async {
                // What stays is found, and named, at the end.
                let _ = runtime.kill(&process, Signal::KILL, KillScope::All).await;
                let _ = runtime.wait(&process).await;
                let _ = runtime.delete(&process).await;
            });
        }
    }
}

/// How long a start takes, and what this process needs for a sandbox. The first one is not counted: it
/// may make a template, and everything that is needed once.
fn sandboxes(bench: &Bench, pods: &mut Pods) -> Result<[Measure; 2], Failure> {
    pods.start(bench)?;
    let before = own_memory()?;
    let mut starts = Vec::new();
    for _ in 0..bench.plan.samples.min(10) {
        check()?;
        starts.push(millis(pods.start(bench)?));
    }
    let each = own_memory()?.saturating_sub(before) as f64 / starts.len() as f64;
    Ok([
        Measure::alone("library_start", Unit::Milliseconds, starts),
        Measure::alone("library_memory", Unit::Kibibytes, vec![each]),
    ])
}

fn calls(bench: &Bench, pods: &Pods) -> Result<Vec<Measure>, Failure> {
    let (id, token) = pods.first()?;
    let process = ProcessRef::init(id.clone());
    let (mut inline, mut queued) = (Vec::new(), Vec::new());
    for _ in 0..bench.plan.calls {
        check()?;
        inline.push(timed(pods, || async { pods.runtime.state(&process).await.map(drop) })?);
        // To attach to what is attached to already is a lookup, in a task of its own.
        queued.push(timed(pods, || async { pods.runtime.attach(token).await.map(drop) })?);
    }
    let before = own_memory()?;
    let waiting: Vec<_> = (0..WAITS)
        .map(|_| {
            let (runtime, process) = (Arc::clone(&pods.runtime), process.clone());
            pods.executor.spawn(async move { runtime.wait(&process).await })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let each = own_memory()?.saturating_sub(before) as f64 / f64::from(WAITS);
    let finished = waiting.iter().filter(|wait| wait.is_finished()).count();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    if finished > 0 {
        return Err(Failure::Unexpected(format!("{finished} waits are over")));
    }
    Ok(vec![
        Measure::alone("library_state", Unit::Microseconds, inline),
        Measure::alone("library_async", Unit::Microseconds, queued),
        Measure::alone("library_wait_memory", Unit::Kibibytes, vec![each]),
    ])
}

/// One of many calls, in microseconds.
fn timed<F: Future<Output = runtime_api::Result<()>>>(
    pods: &Pods,
    call: impl Fn() -> F,
) -> Result<f64, Failure> {
    pods.executor.block_on(async {
        let began = Instant::now();
        for _ in 0..TOGETHER {
            call().await.map_err(unexpected)?;
        }
        Ok(microseconds(began.elapsed() / TOGETHER))
    })
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What this process has of its own, in KiB.
fn own_memory() -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")
        .map_err(|source| Failure::io("read /proc/self/smaps_rollup", source))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .ok_or_else(|| Failure::Unexpected("smaps_rollup without Private_Dirty".into()))
}
