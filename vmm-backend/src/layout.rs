//! Where the files of a sandbox are.
//!
//! ```text
//! <state directory>/<sandbox>/            mode 0700, the state of one VM
//!     record.json                         who runs it; for clean-up after a crash
//!     *.sock                              the VMM's own
//!     processes/<container>[@<exec>].*    how to come back to each process, where machines live on
//!     share/                              what the guest sees, and nothing else
//!         <container>/config.json         the translated OCI spec
//!         <container>/rootfs/             its root filesystem, mounted here
//!         <container>/volumes/<n>         its bind mounts, in the order of the spec
//! ```

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use runtime_api::{ContainerId, Error, ProcessRef, Result, ResultExt, SandboxId};

use crate::mount;

/// The directory of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct SandboxDirectory(PathBuf);

impl SandboxDirectory {
    pub(crate) fn of(state_dir: &Path, sandbox: &SandboxId) -> Self {
        Self(state_dir.join(sandbox))
    }

    /// Creates it; what another sandbox of this name may have left must be gone.
    pub(crate) fn create(&self) -> Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::already_exists(format!(
                    "sandbox directory {} is in use",
                    self.0.display()
                )));
            }
            Err(error) => {
                return Err(
                    Error::internal(format!("create {}", self.0.display())).with_source(error)
                );
            }
        }
        make_directory(&self.share())?;
        make_directory(&self.processes())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn share(&self) -> PathBuf {
        share(&self.0)
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// The files by which a process is found again.
    pub(crate) fn process(&self, process: &ProcessRef) -> ProcessFiles {
        let ProcessRef { container, exec, .. } = process;
        let name = match exec {
            None => container.to_string(),
            // An id has no @ in it.
            Some(exec) => format!("{container}@{exec}"),
        };
        ProcessFiles { directory: self.processes(), name }
    }

    /// Where those files are.
    pub(crate) fn processes(&self) -> PathBuf {
        self.0.join("processes")
    }

    pub(crate) fn container(&self, container: &ContainerId) -> ContainerDirectory {
        ContainerDirectory(self.share().join(container))
    }

    /// Unmounts whatever is mounted below it and removes it. Idempotent.
    ///
    /// # Errors
    /// `Internal` when something stays; nothing is removed below a mount that stays.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_tree(&self.0)
    }
}

/// The files of one process outside of the share.
#[derive(Clone, Debug)]
pub(crate) struct ProcessFiles {
    directory: PathBuf,
    name: String,
}

impl ProcessFiles {
    /// A name that no other process of the sandbox has.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    pub(crate) fn progress(&self) -> PathBuf {
        self.directory.join(format!("{}.progress", self.name))
    }

    /// Removes them. Idempotent.
    pub(crate) fn remove(&self) {
        for path in [self.record(), self.progress()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("remove {}: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

/// The directory of one container below the share.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDirectory(PathBuf);

impl ContainerDirectory {
    pub(crate) fn create(&self) -> Result<()> {
        for directory in [self.0.clone(), self.rootfs(), self.volumes()] {
            make_directory(&directory)?;
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    pub(crate) fn remove(&self) -> Result<()> {
        remove_tree(&self.0)
    }
}

/// What the guest sees of a sandbox's directory.
pub(crate) fn share(directory: &Path) -> PathBuf {
    directory.join("share")
}

fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        // The root of a user namespace is nobody here and must get to its root filesystem. Nobody of
        // the host gets past the directory of the sandbox.
        .mode(0o711)
        .create(path)
        .internal(|| format!("create directory {}", path.display()))
}

fn remove_tree(path: &Path) -> Result<()> {
    mount::unmount_below(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}", path.display())).with_source(error))
        }
        _ => Ok(()),
    }
}
