use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tempfile::TempDir;

use super::*;
use crate::vmm::{
    Accelerator, AgentChannel, FileIdentity, Fingerprint, GuestImage, LeftMachine, Lifetime,
    Mebibytes, NetworkNamespace, SharedFs, Vm, VmmCapabilities, VmmError,
};

/// Saves by writing two small files.
#[derive(Default)]
struct Driver {
    saved: AtomicUsize,
    broken: bool,
}

#[async_trait]
impl Vmm for Driver {
    fn name(&self) -> &'static str {
        "driver"
    }

    fn capabilities(&self) -> &VmmCapabilities {
        &VmmCapabilities {
            snapshot: true,
            cow_clone: true,
            hotplug: false,
            shared_fs: SharedFs::None,
            channel: AgentChannel::Vsock,
        }
    }

    async fn boot(&self, _spec: &VmSpec) -> std::result::Result<Box<dyn Vm>, VmmError> {
        unreachable!("nothing boots here")
    }

    fn fingerprint(&self, spec: &VmSpec) -> std::result::Result<Fingerprint, VmmError> {
        let inputs = vec![FileIdentity::of(&spec.guest.kernel).unwrap()];
        Ok(Fingerprint { inputs, settings: spec.memory.to_string() })
    }

    async fn save_template(
        &self,
        spec: &VmSpec,
        files: &TemplateFiles,
    ) -> std::result::Result<(), VmmError> {
        self.saved.fetch_add(1, Ordering::Relaxed);
        // Others come meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(spec.share.is_dir());
        if self.broken {
            return Err(VmmError::Template { attempt: "save", detail: "it is broken".into() });
        }
        fs::write(&files.memory, "memory").unwrap();
        fs::write(&files.state, "state").unwrap();
        Ok(())
    }

    async fn restore(
        &self,
        _spec: &VmSpec,
        _files: &TemplateFiles,
    ) -> std::result::Result<Box<dyn Vm>, VmmError> {
        unreachable!("nothing is restored here")
    }

    async fn attach(
        &self,
        _left: &LeftMachine,
    ) -> std::result::Result<Option<Box<dyn Vm>>, VmmError> {
        unreachable!("nothing is attached to here")
    }
}

struct Place {
    directory: TempDir,
    templates: Templates,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("vmlinux"), "kernel").unwrap();
        let templates = Templates::in_directory(directory.path().join("templates"));
        Self { directory, templates }
    }

    fn spec(&self, memory: u32) -> VmSpec {
        VmSpec {
            directory: "/nowhere".into(),
            share: "/nowhere/share".into(),
            guest: GuestImage::in_directory(self.directory.path()),
            vcpus: 1,
            memory: Mebibytes(memory),
            accelerator: Accelerator::Tcg,
            lifetime: Lifetime::Survives,
            network: NetworkNamespace::New,
            command_line: Vec::new(),
            boot_deadline: Duration::from_secs(5),
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.templates.directory).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn many_who_ask_at_once_get_one_template() {
    let (place, driver) = (Place::new(), Driver::default());
    let spec = place.spec(16);
    let ask = || place.templates.obtain(&driver, &spec);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let directories: Vec<_> =
        [one, two, three].map(|one| one.unwrap().directory().to_owned()).into();
    assert!(directories.iter().all(|directory| *directory == directories[0]));
    assert_eq!(driver.saved.load(Ordering::Relaxed), 1);
    assert!(place.templates.check().iter().all(|checked| checked.verdict.is_ok()));
    let key = directories[0].file_name().unwrap().to_str().unwrap();
    assert_eq!(place.names(), [key.to_owned(), format!("{key}.lock")]);
}

#[tokio::test]
async fn a_damaged_template_is_found_and_built_again() {
    let (place, driver) = (Place::new(), Driver::default());
    let spec = place.spec(16);
    let files = place.templates.obtain(&driver, &spec).await.unwrap().files();
    fs::write(&files.state, "STATE").unwrap();
    let checked = place.templates.check();
    let error = checked[0].verdict.as_ref().unwrap_err().to_string();
    assert!(error.contains("state has hash"), "{error}");
    let again = place.templates.obtain(&driver, &spec).await.unwrap();
    assert_eq!(fs::read_to_string(again.files().state).unwrap(), "state");
    assert_eq!(driver.saved.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_a_killed_builder_left_is_removed() {
    let (place, driver) = (Place::new(), Driver::default());
    let template = place.templates.obtain(&driver, &place.spec(16)).await.unwrap();
    let slot = template.slot.clone();
    drop(template);
    fs::rename(&slot.place, slot.with("new")).unwrap();
    fs::remove_file(slot.with("new").join("manifest.json")).unwrap();
    drop(place.templates.obtain(&driver, &place.spec(16)).await.unwrap());
    assert!(!slot.with("new").exists() && slot.place.exists());
}

#[tokio::test]
async fn a_failure_is_told_and_not_repeated_at_once() {
    let (place, driver) = (Place::new(), Driver { broken: true, ..Driver::default() });
    let ask = || async { place.templates.obtain(&driver, &place.spec(16)).await.unwrap_err() };
    assert!(ask().await.chain().contains("it is broken"));
    let error = ask().await.chain();
    assert!(error.contains("it failed 0 s ago") && error.contains("it is broken"), "{error}");
    assert_eq!(driver.saved.load(Ordering::Relaxed), 1);
    assert!(place.names().iter().all(|name| name.ends_with(".lock") || name.ends_with(".failed")));
}

#[tokio::test]
async fn a_template_whose_clone_is_dead_is_put_aside() {
    let (place, driver) = (Place::new(), Driver::default());
    let template = place.templates.obtain(&driver, &place.spec(16)).await.unwrap();
    let directory = template.directory().to_owned();
    template.put_aside(&Error::unavailable("the guest does not answer"));
    assert!(!directory.exists());
    let error = place.templates.obtain(&driver, &place.spec(16)).await.unwrap_err().chain();
    assert!(error.contains("the guest does not answer"), "{error}");
}

#[tokio::test]
async fn what_nobody_can_ask_for_is_collected() {
    let (place, driver) = (Place::new(), Driver::default());
    drop(place.templates.obtain(&driver, &place.spec(16)).await.unwrap());
    let held = place.templates.obtain(&driver, &place.spec(32)).await.unwrap();
    fs::write(place.directory.path().join("vmlinux"), "another kernel").unwrap();
    drop(place.templates.obtain(&driver, &place.spec(16)).await.unwrap());
    // The new one, and that which is in use.
    assert_eq!(place.templates.check().len(), 2);
    assert!(held.directory().exists());
    assert!(place.templates.clear().is_err());
    drop(held);
    place.templates.clear().unwrap();
    assert!(!place.templates.directory.exists());
    place.templates.clear().unwrap();
}

#[tokio::test]
async fn the_least_recently_used_goes_over_the_limit() {
    let (place, driver) = (Place::new(), Driver::default());
    let kept = u32::try_from(KEPT).unwrap();
    let template = place.templates.obtain(&driver, &place.spec(1)).await.unwrap();
    let first = template.directory().to_owned();
    drop(template);
    for memory in 2..=kept {
        drop(place.templates.obtain(&driver, &place.spec(memory)).await.unwrap());
    }
    assert_eq!(place.templates.check().len(), KEPT);
    drop(place.templates.obtain(&driver, &place.spec(kept + 1)).await.unwrap());
    assert_eq!(place.templates.check().len(), KEPT);
    assert!(!first.exists());
}

#[tokio::test]
async fn too_little_space_is_told_before_anything_is_built() {
    let (place, driver) = (Place::new(), Driver::default());
    let error = place.templates.obtain(&driver, &place.spec(u32::MAX)).await.unwrap_err();
    assert!(error.to_string().contains("MiB of space"), "{error}");
    assert_eq!(driver.saved.load(Ordering::Relaxed), 0);
}
