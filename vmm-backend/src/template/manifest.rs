//! What a template was made from, and what its files must be.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use runtime_api::{Error, Result, ResultExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vmm::{FileIdentity, Fingerprint, TemplateFiles};

/// The version of the file; a template of another one is not used.
const VERSION: u32 = 1;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a template depends on: what its driver says, and the boot of the host. Processor and clock
/// are the same for as long as that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    inputs: Vec<FileIdentity>,
    settings: String,
    boot: String,
}

impl Origin {
    pub(super) fn new(fingerprint: Fingerprint) -> Result<Self> {
        let Fingerprint { inputs, settings } = fingerprint;
        let boot = fs::read_to_string(BOOT_ID).internal(|| format!("read {BOOT_ID}"))?;
        Ok(Self { inputs, settings, boot: boot.trim().to_owned() })
    }

    /// The name under which a template of this origin is kept.
    pub(super) fn key(&self) -> Result<String> {
        let text = serde_json::to_vec(self).internal(|| "encode the origin of a template")?;
        // 64 bits, for the directory's name is a part of socket paths.
        Ok(hex(&Sha256::digest(text)[..8]))
    }

    /// Whether a sandbox could still ask for it.
    fn is_current(&self) -> bool {
        let boot = fs::read_to_string(BOOT_ID);
        self.inputs.iter().all(FileIdentity::holds)
            && boot.is_ok_and(|boot| boot.trim() == self.boot)
    }
}

/// The contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    origin: Origin,
    /// The memory is checked by its identity when it is used: to read it all would take longer than
    /// to boot.
    memory: FileIdentity,
    memory_sha256: String,
    state_sha256: String,
}

impl Manifest {
    const FILE: &str = "manifest.json";

    /// Describes the files in `directory`, which is about to become `place`. Reads all of them.
    pub(super) fn describe(origin: Origin, directory: &Path, place: &Path) -> Result<Self> {
        let files = TemplateFiles::in_directory(directory);
        let memory = FileIdentity::of(&files.memory)
            .internal(|| format!("stat {}", files.memory.display()))?
            .at(TemplateFiles::in_directory(place).memory);
        Ok(Self {
            version: VERSION,
            origin,
            memory,
            memory_sha256: hash(&files.memory)?,
            state_sha256: hash(&files.state)?,
        })
    }

    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(Self::FILE);
        let text = serde_json::to_vec(self).internal(|| "encode a manifest")?;
        fs::write(&path, text).internal(|| format!("write {}", path.display()))
    }

    /// Reads the manifest in `directory`; `None` when there is none that this version understands.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let text = fs::read(directory.join(Self::FILE)).ok()?;
        let manifest: Self = serde_json::from_slice(&text).ok()?;
        (manifest.version == VERSION).then_some(manifest)
    }

    /// Whether the files in `directory` are those of a template of this origin.
    pub(super) fn serves(&self, origin: &Origin, directory: &Path) -> bool {
        let state = TemplateFiles::in_directory(directory).state;
        self.origin == *origin
            && self.memory.holds()
            && hash(&state).is_ok_and(|hash| hash == self.state_sha256)
    }

    pub(super) fn is_current(&self) -> bool {
        self.origin.is_current()
    }

    /// Reads both files and compares them with what they were.
    ///
    /// # Errors
    /// `Internal` naming the file that has changed.
    pub(super) fn verify(&self, directory: &Path) -> Result<()> {
        let files = TemplateFiles::in_directory(directory);
        for (path, wanted) in
            [(&files.memory, &self.memory_sha256), (&files.state, &self.state_sha256)]
        {
            let found = hash(path)?;
            if found != *wanted {
                let path = path.display();
                return Err(Error::internal(format!("{path} has hash {found}, not {wanted}")));
            }
        }
        Ok(())
    }
}

fn hash(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let (mut file, mut sha) = (File::open(path)?, Sha256::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&sha.finalize())),
                count => sha.update(&buffer[..count]),
            }
        }
    };
    read().internal(|| format!("read {}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(input: &Path) -> Origin {
        let inputs = vec![FileIdentity::of(input).unwrap()];
        Origin::new(Fingerprint { inputs, settings: "-m 512M".into() }).unwrap()
    }

    #[test]
    fn a_template_serves_its_origin_until_a_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["vmlinux", "memory", "state"] {
            fs::write(at(name), name).unwrap();
        }
        let origin = origin(&at("vmlinux"));
        let manifest =
            Manifest::describe(origin.clone(), directory.path(), directory.path()).unwrap();
        manifest.write(directory.path()).unwrap();
        assert_eq!(Manifest::read(directory.path()).as_ref(), Some(&manifest));
        assert!(manifest.serves(&origin, directory.path()) && manifest.is_current());
        manifest.verify(directory.path()).unwrap();

        fs::write(at("memory"), "MEMORY").unwrap();
        assert!(!manifest.serves(&origin, directory.path()));
        let error = manifest.verify(directory.path()).unwrap_err();
        assert!(error.to_string().contains("memory has hash"), "{error}");
        fs::write(at("vmlinux"), "another kernel").unwrap();
        assert!(!manifest.is_current());
        assert_ne!(self::origin(&at("vmlinux")).key().unwrap(), origin.key().unwrap());
    }

    #[test]
    fn a_manifest_of_another_version_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(Manifest::FILE), r#"{"version":2}"#).unwrap();
        assert_eq!(Manifest::read(directory.path()), None);
    }
}
