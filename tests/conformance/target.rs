//! The doors that the cases go through.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conformance::part;
use runtime_api::{Result, Runtime};
use runtime_capi::load;

use crate::wire::{self, WireRuntime};

/// The shim that everyone else's behaviour is compared with.
const REFERENCE: &str = "/usr/bin/containerd-shim-runc-v2";

/// A door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The library of `VMRT_LIBRARY`, loaded into this program.
    Library,
    /// The shim of `VMRT_SHIM`, over ttrpc.
    Wire,
    /// The shim of `VMRT_REFERENCE`, or runc's.
    Reference,
}

impl Target {
    pub(crate) const ALL: [Self; 3] = [Self::Library, Self::Wire, Self::Reference];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Library => "library",
            Self::Wire => "wire",
            Self::Reference => "reference",
        }
    }

    /// The targets that `VMRT_TARGETS` names, or all.
    pub(crate) fn chosen() -> Vec<Self> {
        let words = std::env::var("VMRT_TARGETS").unwrap_or_default();
        let words: Vec<_> = words.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        for word in &words {
            assert!(Self::ALL.iter().any(|one| one.name() == *word), "no such target: {word}");
        }
        let chosen = |one: &Self| words.is_empty() || words.contains(&one.name());
        Self::ALL.into_iter().filter(chosen).collect()
    }

    /// Why it cannot be had on this machine.
    pub(crate) fn absence(self) -> Option<String> {
        let program = reference();
        (self == Self::Reference && !program.exists())
            .then(|| format!("there is no {}", program.display()))
    }
}

fn reference() -> PathBuf {
    std::env::var_os("VMRT_REFERENCE").map_or_else(|| REFERENCE.into(), PathBuf::from)
}

/// What one case has of a target.
pub(crate) struct Door {
    pub(crate) target: Target,
    pub(crate) runtime: Arc<dyn Runtime>,
    wire: Option<Arc<WireRuntime>>,
    directory: PathBuf,
    namespace: String,
}

impl Door {
    /// Opens a runtime of its own below `directory`, inside the executor of the case.
    pub(crate) async fn open(target: Target, config: &Path, directory: &Path) -> Result<Self> {
        let number = directory.file_name().unwrap_or_default().display();
        let namespace = format!("conformance-{}-{number}", std::process::id());
        let (runtime, wire): (Arc<dyn Runtime>, _) = match target {
            Target::Library => {
                let options = load::Options {
                    config: Some(config.to_owned()),
                    state_dir: Some(directory.join("s")),
                    workers: 0,
                };
                (load::open(&part("VMRT_LIBRARY"), &options)?, None)
            }
            Target::Wire | Target::Reference => {
                let program = match target {
                    Target::Reference => reference(),
                    _ => part("VMRT_SHIM"),
                };
                let options = wire::Options {
                    program,
                    config: config.to_owned(),
                    namespace: namespace.clone(),
                    directory: directory.to_owned(),
                };
                let wire = Arc::new(WireRuntime::open(options).await?);
                (wire.clone(), Some(wire))
            }
        };
        Ok(Self { target, runtime, wire, directory: directory.to_owned(), namespace })
    }

    /// Gives everything back, however the case went.
    pub(crate) async fn close(self) {
        if let Some(wire) = self.wire {
            wire.close().await;
        }
        drop(self.runtime);
        // Where runc keeps its containers; it leaves the directory of a namespace behind.
        let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(&self.namespace));
    }

    /// The words by which the processes, mounts and files of the case are known on the host.
    pub(crate) fn marks(&self) -> Vec<String> {
        vec![format!("{}/", self.directory.display()), self.namespace.clone()]
    }
}
