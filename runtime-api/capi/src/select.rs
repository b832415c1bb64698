//! Which runtime a container gets, by a crio.conf.
//!
//! ```text
//!   trusted workload, or no version ──► the OCI command line: the path to a runc
//!   runtime_type = "vm", no version ──► a shim
//!   version = "v2" ───────────────────► a library
//! ```
//!
//! Sources: crio.conf(5), "CRIO.RUNTIME.RUNTIMES TABLE" and crio.conf.d(5). The key `version` is this
//! project's addition.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use runtime_api::{Error, ErrorKind, Result, ResultExt, Runtime};
use serde::Deserialize;

use crate::load;

/// The version of the interface that this crate loads libraries of.
const VERSION: &str = "v2";

/// The name of the runtime that trusted workloads get.
const TRUSTED: &str = "runc";

/// How far a daemon trusts what it is going to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It may run on the host's kernel.
    Trusted,
    /// It runs in whatever its handler says.
    Untrusted,
}

/// What a container is to be run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// A program with the command line of the OCI runtimes; without a path it is looked for in `PATH`.
    Command(Option<PathBuf>),
    /// A program that serves containerd's shim interface.
    Shim(PathBuf),
    /// A shared library with the table of this crate.
    Library(PathBuf),
}

/// The runtimes that a crio.conf names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtimes {
    default: String,
    handlers: BTreeMap<String, Handler>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Handler {
    runtime_type: Option<String>,
    runtime_path: Option<PathBuf>,
    version: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    crio: Crio,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Crio {
    runtime: RuntimeTable,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeTable {
    default_runtime: Option<String>,
    runtimes: BTreeMap<String, Handler>,
}

impl Runtimes {
    /// Reads a crio.conf and then the `.conf` files of its drop-in directory, in the order of their
    /// names. A later file replaces a runtime table as a whole. Either may be missing.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file and what is wrong with it.
    pub fn read(file: &Path, drop_ins: &Path) -> Result<Self> {
        let mut read = Self { default: TRUSTED.to_owned(), handlers: BTreeMap::new() };
        let mut files = vec![file.to_owned()];
        files.extend(in_order(drop_ins)?);
        for path in files {
            match fs::read_to_string(&path) {
                Ok(text) => read.add(&text, &path)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let message = format!("read {}", path.display());
                    return Err(Error::invalid_argument(message).with_source(error));
                }
            }
        }
        Ok(read)
    }

    fn add(&mut self, text: &str, origin: &Path) -> Result<()> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.message().replace('\n', " ");
            Error::invalid_argument(format!("{}: {line}", origin.display()))
        })?;
        let table = file.crio.runtime;
        if let Some(default) = table.default_runtime.filter(|name| !name.is_empty()) {
            self.default = default;
        }
        for (name, handler) in table.runtimes {
            handler.check(&name, origin)?;
            self.handlers.insert(name, handler);
        }
        Ok(())
    }

    /// Selects for the handler of a pod; an empty one stands for the default.
    ///
    /// # Errors
    /// `NotFound` naming the handler that no table has.
    pub fn select(&self, handler: &str, trust: Trust) -> Result<Selected> {
        if trust == Trust::Trusted {
            let path = self.handlers.get(TRUSTED).and_then(Handler::path);
            return Ok(Selected::Command(path));
        }
        let name = if handler.is_empty() { &self.default } else { handler };
        match self.handlers.get(name) {
            Some(handler) => Ok(handler.selected()),
            // It needs no table of its own.
            None if name == TRUSTED => Ok(Selected::Command(None)),
            None => Err(Error::not_found(format!("runtime handler {name:?}"))),
        }
    }
}

impl Handler {
    fn path(&self) -> Option<PathBuf> {
        self.runtime_path.clone().filter(|path| !path.as_os_str().is_empty())
    }

    fn is_vm(&self) -> bool {
        self.runtime_type.as_deref() == Some("vm")
    }

    fn check(&self, name: &str, origin: &Path) -> Result<()> {
        let wrong = |what: String| {
            let origin = origin.display();
            Err(Error::invalid_argument(format!("{origin}: crio.runtime.runtimes.{name}: {what}")))
        };
        match self.runtime_type.as_deref() {
            None | Some("" | "oci" | "vm") => {}
            Some(other) => return wrong(format!("runtime_type = {other:?}; known are oci and vm")),
        }
        match self.version.as_deref() {
            None | Some("" | VERSION) => {}
            Some(other) => return wrong(format!("version = {other:?}; known is {VERSION:?}")),
        }
        let needs_path = self.is_vm() || self.version.as_deref() == Some(VERSION);
        match self.path() {
            None if needs_path => wrong("runtime_path is missing".to_owned()),
            Some(path) if !path.is_absolute() => {
                wrong(format!("runtime_path = {:?} is not absolute", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn selected(&self) -> Selected {
        match (self.version.as_deref(), self.path()) {
            (Some(VERSION), Some(path)) => Selected::Library(path),
            (_, Some(path)) if self.is_vm() => Selected::Shim(path),
            (_, path) => Selected::Command(path),
        }
    }
}

/// The `.conf` files of a directory, in the order of their names.
fn in_order(directory: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.kind(ErrorKind::InvalidArgument, reading)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.kind(ErrorKind::InvalidArgument, reading)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The open libraries of a daemon: one runtime for each path.
#[derive(Default)]
pub struct Libraries {
    options: load::Options,
    open: Mutex<BTreeMap<PathBuf, Arc<dyn Runtime>>>,
}

impl Libraries {
    /// Opens libraries with these options. Each gets a state directory of its own, below the one that
    /// is given.
    pub fn new(options: load::Options) -> Self {
        Self { options, open: Mutex::default() }
    }

    /// The runtime of the library at `path`, which is opened when it is asked for the first time.
    ///
    /// # Errors
    /// As [`load::open`].
    pub fn runtime(&self, path: &Path) -> Result<Arc<dyn Runtime>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = open.get(path) {
            return Ok(Arc::clone(runtime));
        }
        let mut options = self.options.clone();
        options.state_dir = options.state_dir.map(|directory| directory.join(name_of(path)));
        let runtime = load::open(path, &options)?;
        open.insert(path.to_owned(), Arc::clone(&runtime));
        Ok(runtime)
    }
}

/// A name for what belongs to the library at `path`: readable, and the same after a restart.
fn name_of(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.trim_start_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
        [crio.runtime]
        default_runtime = "vmrt"
        log_level = "info"
        [crio.runtime.runtimes.runc]
        runtime_path = "/usr/sbin/runc"
        [crio.runtime.runtimes.vmrt]
        runtime_type = "vm"
        runtime_path = "/usr/lib/libvmrt.so"
        version = "v2"
        [crio.runtime.runtimes.kata]
        runtime_type = "vm"
        runtime_path = "/usr/bin/containerd-shim-kata-v2"
        [crio.runtime.runtimes.crun]
        runtime_type = "oci"
        runtime_path = "/usr/bin/crun"
        version = ""
    "#;

    fn read(files: &[(&str, &str)]) -> Result<Runtimes> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("crio.conf.d")).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Runtimes::read(&directory.path().join("crio.conf"), &directory.path().join("crio.conf.d"))
    }

    #[test]
    fn the_version_decides_between_a_library_and_what_there_was_before() {
        let runtimes = read(&[("crio.conf", CONF)]).unwrap();
        let select = |handler, trust| runtimes.select(handler, trust).unwrap();
        let library = Selected::Library("/usr/lib/libvmrt.so".into());
        assert_eq!(select("", Trust::Untrusted), library);
        assert_eq!(select("vmrt", Trust::Untrusted), library);
        let shim = Selected::Shim("/usr/bin/containerd-shim-kata-v2".into());
        assert_eq!(select("kata", Trust::Untrusted), shim);
        let crun = Selected::Command(Some("/usr/bin/crun".into()));
        assert_eq!(select("crun", Trust::Untrusted), crun);
        let unknown = runtimes.select("gvisor", Trust::Untrusted).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_trusted_workload_gets_runc_whatever_the_version_says() {
        let runtimes = read(&[("crio.conf", CONF)]).unwrap();
        let runc = Selected::Command(Some("/usr/sbin/runc".into()));
        for handler in ["", "vmrt", "kata", "unknown"] {
            assert_eq!(runtimes.select(handler, Trust::Trusted).unwrap(), runc);
        }
        let bare = read(&[]).unwrap();
        assert_eq!(bare.select("", Trust::Untrusted).unwrap(), Selected::Command(None));
    }

    #[test]
    fn drop_ins_come_later_and_in_order() {
        let drop_in = |path: &str| {
            format!("[crio.runtime.runtimes.vmrt]\nversion = \"v2\"\nruntime_path = \"{path}\"")
        };
        let runtimes = read(&[
            ("crio.conf", CONF),
            ("crio.conf.d/20-b.conf", &drop_in("/second.so")),
            ("crio.conf.d/10-a.conf", &drop_in("/first.so")),
            ("crio.conf.d/30-c.txt", "no TOML"),
            ("crio.conf.d/40-d.conf", "[crio.runtime]\ndefault_runtime = \"runc\""),
        ])
        .unwrap();
        let vmrt = runtimes.select("vmrt", Trust::Untrusted).unwrap();
        assert_eq!(vmrt, Selected::Library("/second.so".into()));
        let default = runtimes.select("", Trust::Untrusted).unwrap();
        assert_eq!(default, Selected::Command(Some("/usr/sbin/runc".into())));
    }

    #[test]
    fn a_mistake_names_the_file_and_the_key() {
        let table = |text: &str| format!("[crio.runtime.runtimes.x]\n{text}");
        for (text, word) in [
            ("version = \"v3\"", "v3"),
            ("version = \"v2\"", "runtime_path"),
            ("version = \"v2\"\nruntime_path = \"libvmrt.so\"", "libvmrt.so"),
            ("runtime_type = \"pod\"", "pod"),
            ("version = 2", "crio.conf"),
        ] {
            let error = read(&[("crio.conf", &table(text))]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.chain().contains(word) && error.chain().contains("crio.conf"), "{error}");
        }
    }
}
