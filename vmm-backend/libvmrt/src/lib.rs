//! `libvmrt.so`: the C table of runtime-capi.

#![expect(unsafe_code, reason = "an exported symbol cannot have a mangled name")]

use std::ffi::c_void;

/// The only symbol: the table of this major version, or null when it is not served.
// SAFETY: the name carries the project's prefix, and this is the library's only exported symbol.
#[unsafe(no_mangle)]
pub extern "C" fn vmrt_get_api(major: u32) -> *const c_void {
    runtime_capi::table(major)
}
