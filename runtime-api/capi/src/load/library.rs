//! A loaded library.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runtime_api::{Error, Result, ResultExt};

use super::elf;
use crate::abi::{Api, MAJOR};

const SYMBOL: &CStr = c"vmrt_get_api";

type GetApi = unsafe extern "C" fn(u32) -> *const Api;

/// A library that serves the table of this version. It stays loaded until the program ends: its
/// threads could not be taken away from under it.
#[derive(Clone, Copy)]
pub struct Library {
    pub(super) table: &'static Api,
}

impl Library {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// As [`open`](super::open).
    pub fn load(path: &Path) -> Result<Self> {
        let path = absolute(path)?;
        elf::check(&path)?;
        let name =
            CString::new(path.as_os_str().as_bytes()).internal(|| "the path of a library")?;
        // SAFETY: a NUL-terminated path of a complete shared object. What its initialisers do is its
        // author's responsibility, as is that of every library that is linked in the usual way.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            let message = format!("load library {}: {}", path.display(), last_error());
            return Err(Error::invalid_argument(message));
        }
        // SAFETY: the handle of a loaded library, which is never unloaded, and a NUL-terminated name.
        let symbol = unsafe { libc::dlsym(handle, SYMBOL.as_ptr()) };
        if symbol.is_null() {
            let message = format!("library {} has no symbol vmrt_get_api", path.display());
            return Err(Error::invalid_argument(message));
        }
        // SAFETY: the symbol of this name is a function of this type (vmrt.h).
        let get_api = unsafe { std::mem::transmute::<*mut libc::c_void, GetApi>(symbol) };
        // SAFETY: it takes any number, and answers null or a table that lives as long as the library.
        let table = unsafe { get_api(MAJOR).as_ref() };
        match table {
            Some(table) if table.major == MAJOR && table.size >= size_of::<Api>() => {
                Ok(Self { table })
            }
            _ => Err(Error::unimplemented(format!(
                "library {} does not have version {MAJOR} of the table",
                path.display()
            ))),
        }
    }

    /// The version of the library.
    pub fn version(&self) -> String {
        // SAFETY: a table's version is NUL-terminated and lives as long as the table.
        unsafe { CStr::from_ptr(self.table.version) }.to_string_lossy().into_owned()
    }
}

/// A name without a slash would be looked for elsewhere (dlopen(3)).
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).internal(|| format!("the path of library {}", path.display()))
}

fn last_error() -> String {
    // SAFETY: it answers null or a NUL-terminated text that stays until the next call in this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason is given".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
