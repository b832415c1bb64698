//! Templates and clones with a real QEMU.
//!
//! Runs when `VMRT_GUEST_IMAGE` names a directory with `vmlinux` and `initramfs.img`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program: its helpers fail by panicking and it tells why it skips"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use vmm_backend::vmm::qemu::Qemu;
use vmm_backend::vmm::{
    Accelerator, ExitReason, GuestImage, Lifetime, Mebibytes, NetworkNamespace, TemplateFiles,
    VmSpec, Vmm, VmmError,
};

const IMAGE: &str = "VMRT_GUEST_IMAGE";

struct Place(TempDir);

/// A place for machines, or a printed reason why there is none.
fn place() -> Option<Place> {
    if std::env::var_os(IMAGE).is_none() {
        eprintln!("skipped: {IMAGE} does not name a guest image");
        return None;
    }
    Some(Place(tempfile::tempdir().unwrap()))
}

impl Place {
    fn spec(&self, name: &str) -> VmSpec {
        let directory = self.0.path().join(name);
        fs::create_dir_all(directory.join("share")).unwrap();
        VmSpec {
            share: directory.join("share"),
            directory,
            guest: GuestImage::in_directory(&PathBuf::from(std::env::var_os(IMAGE).unwrap())),
            vcpus: 1,
            memory: Mebibytes(256),
            accelerator: Accelerator::Tcg,
            lifetime: Lifetime::DiesWithOwner,
            network: NetworkNamespace::New,
            command_line: Vec::new(),
            boot_deadline: Duration::from_secs(90),
        }
    }

    fn files(&self) -> TemplateFiles {
        TemplateFiles::in_directory(self.0.path())
    }

    fn sockets(&self, name: &str) -> usize {
        fs::read_dir(self.0.path().join(name)).unwrap().count() - 1
    }
}

#[tokio::test]
async fn clones_live_side_by_side_and_leave_the_template_as_it_was() {
    let Some(place) = place() else { return };
    let qemu = Qemu::find(None).unwrap();
    qemu.save_template(&place.spec("template"), &place.files()).await.unwrap();
    assert_eq!(place.sockets("template"), 0);
    let before = digest(&place.files().memory);

    let (one, two) = (place.spec("one"), place.spec("two"));
    let files = place.files();
    let (one, two) = tokio::join!(qemu.restore(&one, &files), qemu.restore(&two, &files));
    for (vm, name) in [(one.unwrap(), "one"), (two.unwrap(), "two")] {
        let _channel = vm.connect().await.unwrap();
        // A guest that has lost its memory would panic within this time.
        let ended = tokio::time::timeout(Duration::from_secs(1), vm.exited()).await;
        assert!(ended.is_err(), "{name}: {ended:?}");
        vm.kill().await.unwrap();
        assert_eq!(vm.exited().await.reason, ExitReason::Killed { signal: 9 });
        assert_eq!(place.sockets(name), 0);
    }
    assert_eq!(digest(&place.files().memory), before);
}

#[tokio::test]
async fn a_state_that_is_none_is_refused_and_leaves_nothing() {
    let Some(place) = place() else { return };
    let files = place.files();
    let memory = fs::File::create(&files.memory).unwrap();
    memory.set_len(256 << 20).unwrap();
    fs::write(&files.state, "no state").unwrap();
    let refused = Qemu::find(None).unwrap().restore(&place.spec("clone"), &files).await;
    let error = refused.map(|vm| vm.pid()).unwrap_err();
    assert!(matches!(error, VmmError::Template { attempt: "restore", .. }), "{error}");
    assert_eq!(place.sockets("clone"), 0);
}

#[tokio::test]
async fn a_missing_memory_is_named_and_not_made() {
    let Some(place) = place() else { return };
    let files = place.files();
    let missing = Qemu::find(None).unwrap().restore(&place.spec("clone"), &files).await;
    let error = missing.map(|vm| vm.pid()).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    assert!(!files.memory.exists());
}

#[test]
fn a_fingerprint_knows_the_machine_and_not_the_sandbox() {
    let Some(place) = place() else { return };
    let qemu = Qemu::find(None).unwrap();
    let of = |spec: &VmSpec| qemu.fingerprint(spec).unwrap();
    let spec = place.spec("one");
    let other = VmSpec { network: NetworkNamespace::Existing("/n".into()), ..place.spec("two") };
    assert_eq!(of(&spec), of(&other));
    for different in [
        VmSpec { vcpus: 2, ..spec.clone() },
        VmSpec { memory: Mebibytes(128), ..spec.clone() },
        VmSpec { command_line: vec!["x".into()], ..spec.clone() },
        VmSpec { accelerator: Accelerator::Kvm, ..spec.clone() },
    ] {
        assert_ne!(of(&spec), of(&different));
    }
}

fn digest(path: &Path) -> Vec<u8> {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}
