//! The daemon's side of the table: a library as a [`Runtime`].

#![expect(unsafe_code, reason = "a library is loaded and called through pointers")]

mod elf;
mod instance;
mod library;
mod runtime;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime_api::{Result, Runtime};

pub use instance::{Answer, Instance};
pub use library::Library;
use runtime::LibraryRuntime;

/// How a runtime of a library is opened; see `vmrt_options`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its configuration file; `None` for the default one.
    pub config: Option<PathBuf>,
    /// Where its sandboxes live; `None` for the default.
    pub state_dir: Option<PathBuf>,
    /// How many threads do the work; 0 for the default.
    pub workers: u32,
}

/// Loads the library at `path` and opens a runtime of it, inside the executor that will wait for its
/// answers. The log of the library goes to that of this program.
///
/// ```no_run
/// # async fn example() -> runtime_api::Result<()> {
/// let options = runtime_capi::load::Options::default();
/// let runtime = runtime_capi::load::open("/usr/lib/libvmrt.so".as_ref(), &options)?;
/// println!("{:?}", runtime.capabilities());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `NotFound` when there is no such file; `InvalidArgument` for one that is no library of this
/// interface, with what it is instead; `Unimplemented` when it has another major version; what the
/// library itself answers.
pub fn open(path: &Path, options: &Options) -> Result<Arc<dyn Runtime>> {
    Ok(Arc::new(LibraryRuntime::open(Library::load(path)?, options)?))
}
