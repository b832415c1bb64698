//! Which accelerator works here.
//!
//! A /dev/kvm that opens proves nothing: nested and emulated ones abort or hang the guest. So KVM
//! is used after the real guest has booted under it once. The verdict is kept in a file, because a
//! shim is a new process for every sandbox; a lock keeps several of them from probing at once.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Qemu, vm};
use crate::file_identity::FileIdentity;
use crate::lock::{Hold, lock};
use crate::vmm::{Accelerator, GuestImage, Lifetime, Mebibytes, NetworkNamespace, Vm, VmSpec};

/// A KVM guest is ready in well under a second; where it needs longer TCG is as good.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// How long another process's probe is waited for before this one goes without a verdict.
const LOCK_DEADLINE: Duration = Duration::from_secs(8);

const KVM_DEVICE: &str = "/dev/kvm";

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM if the guest boots under it, else TCG.
    #[default]
    Auto,
    /// KVM without a probe: a boot fails where it does not work.
    Kvm,
    /// TCG.
    Tcg,
}

/// What a probe needs to know.
#[derive(Clone, Debug)]
pub struct Probe {
    /// File for the verdict, in an existing directory of mode 0700 that does not outlive a reboot.
    pub cache: PathBuf,
    /// The guest to boot.
    pub guest: GuestImage,
    /// What the death of this process means for the probe's machine.
    pub lifetime: Lifetime,
}

/// The cached verdict; a file that does not parse as one counts as absent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    version: u32,
    key: Key,
    kvm: bool,
    reason: String,
}

const VERDICT_VERSION: u32 = 2;

/// A verdict holds for this program, guest and host kernel.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    qemu: FileIdentity,
    kernel: FileIdentity,
    initramfs: FileIdentity,
    host_kernel: String,
}

impl Qemu {
    /// Resolves the configured choice to what a [`VmSpec`] wants. `Auto` never fails: whatever
    /// keeps KVM from being proven is logged, and the answer is TCG.
    pub async fn accelerator(&self, choice: AcceleratorChoice, probe: &Probe) -> Accelerator {
        match choice {
            AcceleratorChoice::Kvm => Accelerator::Kvm,
            AcceleratorChoice::Tcg => Accelerator::Tcg,
            AcceleratorChoice::Auto if !Path::new(KVM_DEVICE).exists() => Accelerator::Tcg,
            AcceleratorChoice::Auto => self.probed(probe).await.unwrap_or_else(|error| {
                let cache = probe.cache.display();
                log::warn!("using TCG, as KVM cannot be probed (verdict in {cache}): {error}");
                Accelerator::Tcg
            }),
        }
    }

    async fn probed(&self, probe: &Probe) -> io::Result<Accelerator> {
        let key = Key::new(self.program(), &probe.guest)?;
        if let Some(verdict) = Verdict::read(&probe.cache, &key) {
            return Ok(verdict.accelerator());
        }
        let directory = probe.cache.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // The directory itself is locked, so that no lock file is left.
        let _lock = lock(directory, Hold::Exclusive, LOCK_DEADLINE).await?;
        // Another process may have had the lock for its probe.
        if let Some(verdict) = Verdict::read(&probe.cache, &key) {
            return Ok(verdict.accelerator());
        }
        let (kvm, reason) = match self.boot_under_kvm(probe, directory).await? {
            Ok(()) => (true, "the guest boots under it".to_owned()),
            Err(reason) => (false, reason),
        };
        let verdict = Verdict { version: VERDICT_VERSION, key, kvm, reason };
        log::info!("using {}: KVM was probed: {}", verdict.accelerator(), verdict.reason);
        verdict.write(&probe.cache)?;
        Ok(verdict.accelerator())
    }

    /// The inner error is the verdict's reason.
    async fn boot_under_kvm(
        &self,
        probe: &Probe,
        directory: &Path,
    ) -> io::Result<Result<(), String>> {
        let scratch = Scratch::new(directory)?;
        let spec = VmSpec {
            directory: scratch.0.clone(),
            share: scratch.0.clone(),
            guest: probe.guest.clone(),
            vcpus: 1,
            memory: Mebibytes(256),
            accelerator: Accelerator::Kvm,
            lifetime: probe.lifetime,
            network: NetworkNamespace::New,
            command_line: Vec::new(),
            boot_deadline: PROBE_DEADLINE,
        };
        let outcome = match vm::boot(self.program(), &spec).await {
            Ok(machine) => machine.kill().await,
            Err(error) => Err(error),
        };
        Ok(outcome.map_err(|error| error.to_string()))
    }
}

impl Verdict {
    fn accelerator(&self) -> Accelerator {
        if self.kvm { Accelerator::Kvm } else { Accelerator::Tcg }
    }

    fn read(cache: &Path, key: &Key) -> Option<Self> {
        let verdict: Self = serde_json::from_slice(&fs::read(cache).ok()?).ok()?;
        (verdict.version == VERDICT_VERSION && verdict.key == *key).then_some(verdict)
    }

    /// Replaces the file in one step, for the readers that take no lock.
    fn write(&self, cache: &Path) -> io::Result<()> {
        let fresh = cache.with_extension("new");
        let written =
            fs::write(&fresh, serde_json::to_vec(self)?).and_then(|()| fs::rename(&fresh, cache));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written
    }
}

impl Key {
    fn new(program: &Path, guest: &GuestImage) -> io::Result<Self> {
        Ok(Self {
            qemu: FileIdentity::of(program)?,
            kernel: FileIdentity::of(&guest.kernel)?,
            initramfs: FileIdentity::of(&guest.initramfs)?,
            host_kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// The state directory of the probe's machine. The lock makes its one name unique, and that of an
/// owner who was killed is found again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join("probe");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::DirBuilder::new().mode(0o700).create(&path)?,
        }
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(directory: &Path) -> Key {
        for name in ["qemu", "vmlinux", "initramfs.img"] {
            fs::write(directory.join(name), name).unwrap();
        }
        Key::new(&directory.join("qemu"), &GuestImage::in_directory(directory)).unwrap()
    }

    #[test]
    fn a_verdict_is_read_back_until_the_guest_changes() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("accelerator.json");
        let key = key(directory.path());
        let verdict = Verdict { version: VERDICT_VERSION, key, kvm: true, reason: String::new() };
        verdict.write(&cache).unwrap();
        assert_eq!(Verdict::read(&cache, &verdict.key).as_ref(), Some(&verdict));

        fs::write(directory.path().join("initramfs.img"), "another one").unwrap();
        let guest = GuestImage::in_directory(directory.path());
        let changed = Key::new(&directory.path().join("qemu"), &guest).unwrap();
        assert_eq!(Verdict::read(&cache, &changed), None);
    }

    #[test]
    fn a_damaged_verdict_counts_as_absent() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("accelerator.json");
        let key = key(directory.path());
        assert_eq!(Verdict::read(&cache, &key), None);
        fs::write(&cache, "{\"version\":1,").unwrap();
        assert_eq!(Verdict::read(&cache, &key), None);
    }
}
