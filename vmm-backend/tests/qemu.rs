//! The QEMU driver against a real QEMU.
//!
//! Runs when `VMRT_GUEST_IMAGE` names a directory with `vmlinux` and `initramfs.img`. The agent is not needed
//! beyond its opening of the channel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: its helpers fail by panicking and it tells why it skips"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmm_backend::vmm::qemu::{AcceleratorChoice, Probe, Qemu};
use vmm_backend::vmm::{
    Accelerator, ExitReason, GuestImage, Lifetime, Mebibytes, NetworkNamespace, Vm, VmSpec, Vmm,
    VmmError,
};

const IMAGE: &str = "VMRT_GUEST_IMAGE";

/// Set for the copy of this program that plays an owner to be killed: the sandbox's directory.
const OWNER: &str = "VMRT_TEST_OWNER_OF";

/// Generous, because a machine that runs several tests at a time boots slowly.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

struct Sandbox {
    directory: TempDir,
    spec: VmSpec,
    qemu: Qemu,
}

/// A sandbox to boot, or a printed reason why there is none.
fn sandbox() -> Option<Sandbox> {
    let Some(image) = std::env::var_os(IMAGE) else {
        eprintln!("skipped: {IMAGE} does not name a guest image");
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), &GuestImage::in_directory(Path::new(&image)));
    fs::create_dir(&spec.share).unwrap();
    Some(Sandbox { directory, spec, qemu: Qemu::find(None).unwrap() })
}

fn spec(directory: &Path, guest: &GuestImage) -> VmSpec {
    VmSpec {
        directory: directory.to_owned(),
        share: directory.join("share"),
        guest: guest.clone(),
        vcpus: 1,
        memory: Mebibytes(256),
        accelerator: Accelerator::Tcg,
        lifetime: Lifetime::DiesWithOwner,
        network: NetworkNamespace::New,
        command_line: Vec::new(),
        boot_deadline: BOOT_DEADLINE,
    }
}

impl Sandbox {
    async fn boot(&self) -> Result<Box<dyn Vm>, VmmError> {
        self.qemu.boot(&self.spec).await
    }

    async fn boot_error(&self) -> VmmError {
        let error = self.boot().await.map(|vm| vm.pid()).unwrap_err();
        self.assert_nothing_is_left();
        error
    }

    /// No process names the directory in its arguments, and no file is in it.
    fn assert_nothing_is_left(&self) {
        assert_eq!(machines_of(self.directory.path()), Vec::<u32>::new());
        let files: Vec<PathBuf> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| *path != self.spec.share)
            .collect();
        assert_eq!(files, Vec::<PathBuf>::new());
    }
}

/// The QEMU processes, zombies included, that were started for a directory.
fn machines_of(directory: &Path) -> Vec<u32> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let parent: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        let zombie_of_ours = line.is_empty() && parent == own && stat.contains("(qemu");
        (line.contains(&*directory.to_string_lossy()) && line.contains("qemu") || zombie_of_ours)
            .then_some(pid)
    });
    // Tests run side by side: another one's zombie lives for microseconds only.
    let seen: Vec<u32> = processes.collect();
    std::thread::sleep(Duration::from_millis(50));
    seen.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn boot_and_kill_leave_nothing_behind() {
    let Some(sandbox) = sandbox() else { return };
    let vm = sandbox.boot().await.unwrap();
    assert_eq!(machines_of(sandbox.directory.path()), [vm.pid()]);
    let _channel = vm.connect().await.unwrap();
    vm.kill().await.unwrap();
    assert_eq!(vm.exited().await.reason, ExitReason::Killed { signal: 9 });
    vm.kill().await.unwrap();
    sandbox.assert_nothing_is_left();
}

#[tokio::test]
async fn a_paused_machine_pauses_again_and_resumes() {
    let Some(sandbox) = sandbox() else { return };
    let vm = sandbox.boot().await.unwrap();
    for _ in 0..2 {
        vm.pause().await.unwrap();
    }
    for _ in 0..2 {
        vm.resume().await.unwrap();
    }
    vm.kill().await.unwrap();
    let error = vm.pause().await.unwrap_err();
    assert_eq!(error.to_string(), "the VMM did not execute stop: it is gone");
}

#[tokio::test]
async fn the_vmm_has_a_clean_environment_and_only_its_own_descriptors() {
    let Some(sandbox) = sandbox() else { return };
    // Like the listener that a shim is handed: a descriptor which is not close-on-exec.
    let stray = fs::File::open("/etc/hostname").unwrap();
    let stray = rustix::io::dup(&stray).unwrap();
    let vm = sandbox.boot().await.unwrap();
    assert_eq!(fs::read(format!("/proc/{}/environ", vm.pid())).unwrap(), b"");
    let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", vm.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&PathBuf::from("/etc/hostname")), "{open:?}");
    let adjustment = fs::read_to_string(format!("/proc/{}/oom_score_adj", vm.pid())).unwrap();
    assert!(adjustment.trim().parse::<i32>().unwrap() >= 0);
    drop(stray);
}

#[tokio::test]
async fn a_missing_kernel_is_named() {
    let Some(mut sandbox) = sandbox() else { return };
    sandbox.spec.guest.kernel = "/nonexistent/vmlinux".into();
    let error = sandbox.boot_error().await;
    assert_eq!(error.to_string(), "cannot read the guest's kernel /nonexistent/vmlinux");
}

#[tokio::test]
async fn a_corrupt_kernel_is_named() {
    let Some(mut sandbox) = sandbox() else { return };
    let outside = tempfile::tempdir().unwrap();
    let kernel = outside.path().join("vmlinux");
    let whole = fs::read(&sandbox.spec.guest.kernel).unwrap();
    let mut without_note = whole;
    // The PVH entry note: name "Xen", type 18.
    let note = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";
    for position in 0..without_note.len() - note.len() {
        if without_note[position..].starts_with(note) {
            without_note[position + 8] = 0;
        }
    }
    for bytes in [b"not a kernel".to_vec(), without_note] {
        fs::write(&kernel, bytes).unwrap();
        sandbox.spec.guest.kernel = kernel.clone();
        let error = sandbox.boot_error().await;
        assert!(matches!(&error, VmmError::GuestImage { path, .. } if *path == kernel), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn more_memory_than_the_host_has_is_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    sandbox.spec.memory = Mebibytes(8 << 20);
    let error = sandbox.boot_error().await;
    assert!(matches!(error, VmmError::Memory { memory: Mebibytes(0x80_0000), .. }), "{error}");
}

#[tokio::test]
async fn a_guest_without_init_is_a_death_with_the_consoles_words() {
    let Some(mut sandbox) = sandbox() else { return };
    let outside = tempfile::tempdir().unwrap();
    sandbox.spec.guest.initramfs = outside.path().join("initramfs.img");
    fs::write(&sandbox.spec.guest.initramfs, "").unwrap();
    match sandbox.boot_error().await {
        // Whether the host is told of the panic depends on where the kernel has pvpanic's driver.
        VmmError::DiedDuringBoot {
            reason: ExitReason::GuestPanicked | ExitReason::GuestReset,
            detail,
        } => {
            assert!(detail.contains("Kernel panic"), "{detail}");
        }
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_meets_the_deadline() {
    let Some(mut sandbox) = sandbox() else { return };
    sandbox.spec.boot_deadline = Duration::from_millis(700);
    let start = Instant::now();
    let error = sandbox.boot_error().await;
    assert!(matches!(error, VmmError::BootTimeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_killed_vmm_is_reported_to_every_waiter_at_once() {
    let Some(sandbox) = sandbox() else { return };
    let vm = sandbox.boot().await.unwrap();
    // What takes time on a busy machine is the start of kill(1).
    let killer = async {
        signal(vm.pid(), "-KILL");
        Instant::now()
    };
    let (first, second, start) = tokio::join!(vm.exited(), vm.exited(), killer);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(first.reason, ExitReason::Killed { signal: 9 });
    assert_eq!(first, second);
    drop(vm);
    sandbox.assert_nothing_is_left();
}

#[tokio::test]
async fn a_dropped_boot_leaves_nothing_behind() {
    let Some(sandbox) = sandbox() else { return };
    for milliseconds in [0, 5, 40, 400] {
        let patience = Duration::from_millis(milliseconds);
        assert!(tokio::time::timeout(patience, sandbox.boot()).await.is_err());
        sandbox.assert_nothing_is_left();
    }
}

#[tokio::test]
async fn dropping_a_machine_ends_it_unless_it_is_kept() {
    let Some(mut sandbox) = sandbox() else { return };
    for lifetime in [Lifetime::DiesWithOwner, Lifetime::Survives] {
        sandbox.spec.lifetime = lifetime;
        drop(sandbox.boot().await.unwrap());
        sandbox.assert_nothing_is_left();
    }

    let vm = sandbox.boot().await.unwrap();
    let pid = vm.pid();
    vm.keep();
    drop(vm);
    assert_eq!(machines_of(sandbox.directory.path()), [pid]);
    signal(pid, "-KILL");
}

/// Not a test of its own: what the copy of this program does that is killed.
#[tokio::test]
async fn owner_to_be_killed() {
    let Some(directory) = std::env::var_os(OWNER) else { return };
    let image = std::env::var_os(IMAGE).unwrap();
    let mut spec = spec(Path::new(&directory), &GuestImage::in_directory(Path::new(&image)));
    if Path::new(&directory).join("survives").exists() {
        spec.lifetime = Lifetime::Survives;
    }
    let vm = Qemu::find(None).unwrap().boot(&spec).await.unwrap();
    println!("\nbooted {}", vm.pid());
    vm.exited().await;
}

/// Boots a machine in another process and kills that with SIGKILL; returns the machine's pid.
fn orphan(sandbox: &Sandbox) -> u32 {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["owner_to_be_killed", "--exact", "--nocapture"])
        .env(OWNER, sandbox.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("booted ")?.parse().ok())
        .expect("the owner boots its machine");
    owner.kill().unwrap();
    owner.wait().unwrap();
    pid
}

/// Whether the process runs; PID 1 may leave it a zombie for ever.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

#[test]
fn a_machine_dies_with_its_killed_owner() {
    let Some(sandbox) = sandbox() else { return };
    let pid = orphan(&sandbox);
    let start = Instant::now();
    while runs(pid) {
        assert!(start.elapsed() < Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_surviving_machine_outlives_its_killed_owner() {
    let Some(sandbox) = sandbox() else { return };
    fs::write(sandbox.directory.path().join("survives"), "").unwrap();
    let pid = orphan(&sandbox);
    std::thread::sleep(Duration::from_millis(500));
    assert!(runs(pid));
    signal(pid, "-KILL");
}

#[tokio::test]
async fn a_probe_gives_a_verdict_and_leaves_only_that() {
    let Some(sandbox) = sandbox() else { return };
    let cache = sandbox.directory.path().join("accelerator.json");
    let probe = Probe {
        cache: cache.clone(),
        guest: sandbox.spec.guest.clone(),
        lifetime: Lifetime::DiesWithOwner,
    };
    let first = sandbox.qemu.accelerator(AcceleratorChoice::Auto, &probe).await;
    assert_eq!(cache.exists(), Path::new("/dev/kvm").exists());
    if cache.exists() {
        assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o022, 0);
        let start = Instant::now();
        assert_eq!(sandbox.qemu.accelerator(AcceleratorChoice::Auto, &probe).await, first);
        assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
        println!("{}", fs::read_to_string(&cache).unwrap());
        fs::remove_file(cache).unwrap();
    }
    sandbox.assert_nothing_is_left();
}

#[tokio::test]
async fn a_machine_is_in_the_network_namespace_it_was_given() {
    let Some(mut sandbox) = sandbox() else { return };
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let own = namespace(std::process::id());
    for lifetime in [Lifetime::DiesWithOwner, Lifetime::Survives] {
        sandbox.spec.lifetime = lifetime;
        sandbox.spec.network = NetworkNamespace::New;
        let first = sandbox.boot().await.unwrap();
        let new = namespace(first.pid());
        assert_ne!(new, own);
        let other = spec(sandbox.directory.path(), &sandbox.spec.guest);
        let path = format!("/proc/{}/ns/net", first.pid());
        let second = tempfile::tempdir().unwrap();
        let joined = VmSpec {
            directory: second.path().to_owned(),
            network: NetworkNamespace::Existing(path.into()),
            lifetime,
            ..other
        };
        let second = sandbox.qemu.boot(&joined).await.unwrap();
        assert_eq!(namespace(second.pid()), new);
        first.kill().await.unwrap();
        second.kill().await.unwrap();
    }
    sandbox.spec.network = NetworkNamespace::Existing("/no/such/namespace".into());
    let error = sandbox.boot().await.map(|vm| vm.pid()).unwrap_err();
    assert!(error.to_string().contains("/no/such/namespace"), "{error}");
}
