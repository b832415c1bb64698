//! The C table of vmrt.
//!
//! No version of the table is served yet. A caller finds that out as it would with any version that
//! a library does not have: [`table`] answers null.

use std::ffi::c_void;

/// The table of this major version, or null when it is not served.
pub fn table(_major: u32) -> *const c_void {
    std::ptr::null()
}
