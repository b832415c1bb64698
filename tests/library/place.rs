//! Where a case lives: its directories, its bundles, its runtime.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use conformance::{Bundle, part, processes, unmount_below};
use runtime_api::{
    ContainerId, CreateContainer, Created, Endpoint, ErrorKind, KillScope, ProcessRef, Result,
    Runtime, RuntimeOptions, SandboxId, Signal, Stdio,
};
use runtime_capi::load::{self, Options};
use tempfile::TempDir;

/// What all cases share.
pub(crate) struct Suite {
    directory: TempDir,
    cases: AtomicU32,
}

impl Suite {
    pub(crate) fn new() -> Self {
        // Short, for sockets live below it.
        let directory = tempfile::Builder::new().prefix("vmrt-").tempdir_in("/run").unwrap();
        let config = format!(
            "guest_image = {:?}\ntemplate_dir = {:?}\n",
            part("VMRT_GUEST_IMAGE"),
            directory.path().join("templates")
        );
        fs::write(directory.path().join("vmrt.toml"), config).unwrap();
        Self { directory, cases: AtomicU32::new(0) }
    }

    pub(crate) fn place(self: &Arc<Self>) -> Place {
        let number = self.cases.fetch_add(1, Ordering::Relaxed);
        let root = self.directory.path().join(number.to_string());
        fs::create_dir(&root).unwrap();
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Place { suite: Arc::clone(self), number, root, executor }
    }
}

/// What one case has for itself.
pub(crate) struct Place {
    suite: Arc<Suite>,
    number: u32,
    pub(crate) root: PathBuf,
    pub(crate) executor: tokio::runtime::Runtime,
}

impl Place {
    pub(crate) fn library(&self) -> PathBuf {
        part("VMRT_LIBRARY")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.suite.directory.path().join("vmrt.toml")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root.join("s")
    }

    pub(crate) fn options(&self) -> Options {
        Options { config: Some(self.config()), state_dir: Some(self.state_dir()), workers: 0 }
    }

    /// Opens the library, inside the executor of the case.
    pub(crate) fn open(&self) -> Arc<dyn Runtime> {
        let _entered = self.executor.enter();
        load::open(&self.library(), &self.options())
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// A name that no other case has.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{name}{}", self.number)
    }

    pub(crate) fn run<T>(&self, body: impl Future<Output = T>) -> T {
        self.executor.block_on(async {
            let limit = Duration::from_secs(120);
            tokio::time::timeout(limit, body).await.expect("the case takes too long")
        })
    }

    pub(crate) fn bundle(&self, id: &str, bundle: &Bundle) -> PathBuf {
        bundle.write(&self.root, id)
    }

    /// What is asked for when the output goes to `file` in the directory of the case.
    pub(crate) fn request(&self, id: &str, bundle: &Bundle) -> CreateContainer {
        CreateContainer {
            id: ContainerId::parse(id).unwrap(),
            sandbox: None,
            bundle: self.bundle(id, bundle),
            rootfs: Vec::new(),
            stdio: Stdio { stdout: Endpoint::File(self.output(id)), ..Stdio::default() },
            options: RuntimeOptions::default(),
        }
    }

    pub(crate) fn output(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.out"))
    }

    pub(crate) fn text(&self, id: &str) -> String {
        fs::read_to_string(self.output(id)).unwrap_or_default()
    }

    /// The VMMs of the case.
    pub(crate) fn vmms(&self) -> Vec<conformance::HostProcess> {
        let directory = format!("path={}/", self.state_dir().display());
        processes().into_iter().filter(|one| one.command.contains(&directory)).collect()
    }

    /// Nothing of the case may be left: neither a process, nor a mount, nor a file of a sandbox.
    pub(crate) fn is_clean(&self) {
        assert!(self.vmms().is_empty(), "{:#?}", self.vmms());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let state = self.state_dir().display().to_string();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&state)).collect();
        assert!(left.is_empty(), "{left:#?}");
        let groups = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        for group in
            groups.map(|hierarchy| hierarchy.path().join("vmrt")).filter(|path| path.is_dir())
        {
            let suffix = self.number.to_string();
            let named = fs::read_dir(&group).unwrap().flatten().map(|entry| entry.file_name());
            let ours = |name: &std::ffi::OsString| {
                let name = name.display().to_string();
                let rest = name.strip_suffix(&suffix).unwrap_or_default();
                rest.ends_with(|last: char| !last.is_ascii_digit())
            };
            let left: Vec<_> = named.filter(ours).collect();
            assert!(left.is_empty(), "{left:?} in {}", group.display());
        }
        if let Ok(entries) = fs::read_dir(self.state_dir()) {
            let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            assert!(names.is_empty(), "{names:?}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A case that has failed must not be followed by its leftovers.
        for vmm in self.vmms() {
            let _ = Command::new("kill").args(["-9", &vmm.pid.to_string()]).status();
        }
        unmount_below(&self.root);
    }
}

pub(crate) fn init(id: &str) -> ProcessRef {
    ProcessRef::init(ContainerId::parse(id).unwrap())
}

pub(crate) fn sandbox(id: &str) -> SandboxId {
    SandboxId::parse(id).unwrap()
}

/// Creates and starts.
pub(crate) async fn start(runtime: &dyn Runtime, request: CreateContainer) -> Result<Created> {
    let process = ProcessRef::init(request.id.clone());
    let created = runtime.create_container(request).await?;
    runtime.start(&process).await?;
    Ok(created)
}

/// Kills and deletes.
pub(crate) async fn dispose(runtime: &dyn Runtime, id: &str) {
    let process = init(id);
    match runtime.kill(&process, Signal::KILL, KillScope::All).await {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("kill {id}: {}", error.chain()),
        _ => {}
    }
    runtime.wait(&process).await.unwrap();
    runtime.delete(&process).await.unwrap();
}

/// Waits until a condition holds.
pub(crate) async fn becomes(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came to be that {what}");
}
