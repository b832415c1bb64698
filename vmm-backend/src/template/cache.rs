//! Finding, making and removing templates.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runtime_api::{Error, Result, ResultExt};

use super::build::{build, remove};
use super::manifest::{Manifest, Origin};
use crate::lock::{Hold, lock_file, try_lock_file};
use crate::vmm::{TemplateFiles, VmSpec, Vmm};

/// How long nobody tries again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// How many templates are kept, the most recently used ones. Each is of another configuration.
const KEPT: usize = 8;

/// What a build may take beside the boot of its guest.
const BUILD_MARGIN: Duration = Duration::from_secs(10);

/// The templates in one directory. To make one of these touches nothing.
#[derive(Clone, Debug)]
pub struct Templates {
    directory: PathBuf,
}

/// A template that cannot be removed while this lives.
#[derive(Debug)]
pub(crate) struct Template {
    slot: Slot,
    _lock: File,
}

/// What [`Templates::check`] has found.
#[derive(Debug)]
pub struct Checked {
    /// Where the template is.
    pub directory: PathBuf,
    /// What is wrong with it.
    pub verdict: Result<()>,
}

/// The names of one template.
#[derive(Clone, Debug)]
struct Slot {
    place: PathBuf,
}

impl Templates {
    /// The templates in `directory`, which is made when the first one is.
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The template for `spec`, which is built when there is none. While another process builds it,
    /// this one waits.
    ///
    /// # Errors
    /// What keeps it from being built, or has done so lately; whatever it is, the machine can still
    /// be booted.
    pub(crate) async fn obtain(&self, vmm: &dyn Vmm, spec: &VmSpec) -> Result<Template> {
        let origin = Origin::new(vmm.fingerprint(spec)?)?;
        let slot = Slot { place: self.directory.join(origin.key()?) };
        self.create()?;
        let deadline = spec.boot_deadline + BUILD_MARGIN;
        let lock = |hold| {
            let path = slot.with("lock");
            async move {
                let locked = lock_file(&path, hold, deadline).await;
                locked.internal(|| format!("lock {}", path.display()))
            }
        };
        let shared = lock(Hold::Shared).await?;
        if let Some(template) = slot.found(&origin, shared) {
            return Ok(template);
        }
        let alone = lock(Hold::Exclusive).await?;
        // Whoever had the lock before has made it, or has failed to.
        if !slot.is_there(&origin) {
            slot.lately_failed()?;
            self.build(vmm, spec, &origin, &slot).await?;
        }
        drop(alone);
        let shared = lock(Hold::Shared).await?;
        slot.found(&origin, shared).ok_or_else(|| {
            Error::unavailable(format!("template {} is gone again", slot.place.display()))
        })
    }

    async fn build(
        &self,
        vmm: &dyn Vmm,
        spec: &VmSpec,
        origin: &Origin,
        slot: &Slot,
    ) -> Result<()> {
        let begin = SystemTime::now();
        log::info!("building template {}", slot.place.display());
        let built = build(vmm, spec, origin.clone(), [&slot.with("new"), &slot.place]).await;
        match &built {
            Ok(()) => {
                let took = begin.elapsed().unwrap_or_default();
                log::info!("built template {} in {took:.1?}", slot.place.display());
                remove_file(&slot.with("failed"))?;
                self.collect_garbage(slot);
            }
            Err(error) => slot.note_failure(error),
        }
        built
    }

    fn create(&self) -> Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.internal(|| format!("create directory {}", self.directory.display()))
    }

    /// Removes what no sandbox can ask for any more, and the least recently used of what is left
    /// over the limit. What cannot be removed now is left to the next time.
    fn collect_garbage(&self, fresh: &Slot) {
        let mut current = Vec::new();
        for slot in self.slots() {
            if slot.place == fresh.place {
                continue;
            }
            match (Manifest::read(&slot.place), slot.last_use()) {
                (Some(manifest), Some(time)) if manifest.is_current() => current.push((time, slot)),
                _ => slot.remove_unless_used(),
            }
        }
        current.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        for (_, slot) in current.into_iter().skip(KEPT - 1) {
            slot.remove_unless_used();
        }
    }

    /// Every name that has anything in the directory.
    fn slots(&self) -> Vec<Slot> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut places: Vec<_> = entries.map(|entry| entry.path().with_extension("")).collect();
        places.sort();
        places.dedup();
        places.into_iter().map(|place| Slot { place }).collect()
    }

    /// Reads every template and compares it with what it was.
    pub fn check(&self) -> Vec<Checked> {
        let whole = |slot: Slot| {
            let verdict = match Manifest::read(&slot.place) {
                Some(manifest) => manifest.verify(&slot.place),
                None => Err(Error::internal("its manifest is missing or damaged")),
            };
            Checked { directory: slot.place, verdict }
        };
        self.slots().into_iter().filter(|slot| slot.place.is_dir()).map(whole).collect()
    }

    /// Removes all templates. Machines that are clones of one keep its memory.
    ///
    /// # Errors
    /// `Unavailable` naming one that is just being built or cloned; `Internal` for what cannot be
    /// removed.
    pub fn clear(&self) -> Result<()> {
        self.slots().iter().try_for_each(|slot| {
            if slot.try_remove()? {
                return Ok(());
            }
            Err(Error::unavailable(format!("template {} is in use", slot.place.display())))
        })?;
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).internal(|| format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Template {
    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.slot.place
    }

    /// The files to restore from.
    pub(crate) fn files(&self) -> TemplateFiles {
        TemplateFiles::in_directory(&self.slot.place)
    }

    /// Keeps everybody from trying this template for a while: a clone of it did not come to life.
    pub(crate) fn put_aside(self, error: &Error) {
        self.slot.note_failure(error);
        // The lock goes first, or nobody could remove it.
        let slot = self.slot.clone();
        drop(self);
        if let Err(error) = slot.alone(|| remove(&slot.place)) {
            log::warn!("{}", error.chain());
        }
    }
}

impl Slot {
    fn with(&self, extension: &str) -> PathBuf {
        self.place.with_extension(extension)
    }

    fn is_there(&self, origin: &Origin) -> bool {
        Manifest::read(&self.place).is_some_and(|manifest| manifest.serves(origin, &self.place))
    }

    fn found(&self, origin: &Origin, lock: File) -> Option<Template> {
        self.is_there(origin).then(|| {
            self.note_use();
            Template { slot: self.clone(), _lock: lock }
        })
    }

    fn note_use(&self) {
        let noted = File::open(&self.place).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = noted {
            log::debug!("note the use of {}: {error}", self.place.display());
        }
    }

    fn last_use(&self) -> Option<SystemTime> {
        fs::metadata(&self.place).and_then(|data| data.modified()).ok()
    }

    fn note_failure(&self, error: &Error) {
        if let Err(error) = fs::write(self.with("failed"), error.chain()) {
            log::warn!("write {}: {error}", self.with("failed").display());
        }
    }

    fn lately_failed(&self) -> Result<()> {
        let path = self.with("failed");
        let since = fs::metadata(&path).and_then(|data| data.modified()).ok();
        match since.map(|time| time.elapsed().unwrap_or_default()) {
            Some(since) if since < RETRY_INTERVAL => {
                let reason = fs::read_to_string(&path).unwrap_or_default();
                let (path, seconds) = (path.display(), since.as_secs());
                Err(Error::unavailable(format!("it failed {seconds} s ago ({path}): {reason}")))
            }
            _ => Ok(()),
        }
    }

    fn remove_unless_used(&self) {
        if let Err(error) = self.try_remove() {
            log::warn!("{}", error.chain());
        }
    }

    /// Removes everything of this name; false when somebody uses it.
    fn try_remove(&self) -> Result<bool> {
        self.alone(|| {
            remove(&self.place)?;
            remove(&self.with("new"))?;
            for path in [self.with("failed"), self.with("lock")] {
                remove_file(&path)?;
            }
            Ok(())
        })
    }

    /// Does something while nobody else can; false when that is not possible now.
    fn alone(&self, work: impl FnOnce() -> Result<()>) -> Result<bool> {
        let path = self.with("lock");
        let lock = try_lock_file(&path).internal(|| format!("lock {}", path.display()))?;
        match lock {
            Some(_lock) => work().map(|()| true),
            None => Ok(false),
        }
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).internal(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
