//! Making a template.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use runtime_api::{Error, Result, ResultExt};

use super::manifest::{Manifest, Origin};
use crate::vmm::{Lifetime, NetworkNamespace, TemplateFiles, VmSpec, Vmm};

/// Boots, saves and describes a template for `spec` in `new`, and renames it to `place`. Whoever
/// calls holds the lock of both.
pub(super) async fn build(
    vmm: &dyn Vmm,
    spec: &VmSpec,
    origin: Origin,
    [new, place]: [&Path; 2],
) -> Result<()> {
    let unfinished = Unfinished::create(new)?;
    let share = new.join("share");
    make_directory(&share)?;
    check_space(new, spec)?;
    let its_spec = VmSpec {
        directory: new.to_owned(),
        share: share.clone(),
        network: NetworkNamespace::New,
        lifetime: Lifetime::DiesWithOwner,
        ..spec.clone()
    };
    vmm.save_template(&its_spec, &TemplateFiles::in_directory(new)).await?;
    fs::remove_dir(&share).internal(|| format!("remove {}", share.display()))?;
    let (its_place, its_place_now) = (place.to_owned(), new.to_owned());
    // It reads all of the guest's memory.
    tokio::task::spawn_blocking(move || {
        Manifest::describe(origin, &its_place_now, &its_place)?.write(&its_place_now)
    })
    .await
    .internal(|| "describe a template")??;
    remove(place)?;
    fs::rename(new, place)
        .internal(|| format!("rename {} to {}", new.display(), place.display()))?;
    unfinished.finish();
    Ok(())
}

/// Removes a directory of the cache. Idempotent.
///
/// # Errors
/// `Internal` naming it.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}", path.display())).with_source(error))
        }
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.internal(|| format!("create directory {}", path.display()))
}

/// A guest that touches memory for which its file finds no room is killed (SIGBUS), perhaps long
/// after it was cloned: so there must be room for all of it.
fn check_space(directory: &Path, spec: &VmSpec) -> Result<()> {
    let disk =
        statvfs(directory).internal(|| format!("ask for the space of {}", directory.display()))?;
    let free = (disk.blocks_available() * disk.fragment_size()) >> 20;
    if free < u64::from(spec.memory.0) {
        return Err(Error::failed_precondition(format!(
            "{} has {free} MiB of space, a template needs {}",
            directory.display(),
            spec.memory
        )));
    }
    Ok(())
}

/// The directory of a template that is being built; it goes unless that succeeds.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn create(path: &Path) -> Result<Self> {
        remove(path)?;
        make_directory(path)?;
        Ok(Self(Some(path.to_owned())))
    }

    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = remove(path)
        {
            log::warn!("{}", error.chain());
        }
    }
}
