//! Which QEMU this is.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::vmm::VmmError;

/// Name of the program that is looked for in the search path.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// The oldest version that knows all arguments used here: 9P, `-action` and `memory-backend` are
/// older, the tests run with this one.
const MINIMUM: QemuVersion = QemuVersion { major: 7, minor: 0, micro: 0 };

/// QEMU's version, as it greets with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct QemuVersion {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub micro: u16,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl QemuVersion {
    /// Parses what `-version` prints.
    pub(super) fn parse(output: &str) -> Option<Self> {
        let words = output.lines().next()?.strip_prefix("QEMU emulator version ")?;
        let mut numbers = words.split_whitespace().next()?.split('.').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Self { major: number()?, minor: number()?, micro: number().unwrap_or(0) })
    }

    /// Refuses a version that is too old.
    pub(super) fn check(self, program: &Path) -> Result<Self, VmmError> {
        if self >= MINIMUM {
            return Ok(self);
        }
        let detail = format!("QEMU {self} is too old, {MINIMUM} is needed");
        Err(VmmError::Unsupported { program: program.to_owned(), detail })
    }
}

/// Finds the program: at the given path, or in the directories of `search_path`.
pub(super) fn find(configured: Option<&Path>, search_path: &str) -> Result<PathBuf, VmmError> {
    let missing = |tried: String| VmmError::NotInstalled { program: PROGRAM.to_owned(), tried };
    if let Some(path) = configured {
        return if is_program(path) {
            Ok(path.to_owned())
        } else {
            Err(missing(path.display().to_string()))
        };
    }
    std::env::split_paths(search_path)
        .map(|directory| directory.join(PROGRAM))
        .find(|path| path.is_absolute() && is_program(path))
        .ok_or_else(|| missing(format!("PATH={search_path}")))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_version_is_parsed() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)\n";
        let parsed = QemuVersion::parse(debian).unwrap();
        assert_eq!(parsed, QemuVersion { major: 7, minor: 2, micro: 22 });
        assert_eq!(QemuVersion::parse("QEMU emulator version 10.0").unwrap().major, 10);
        assert_eq!(QemuVersion::parse("qemu-img version 7.2.22"), None);
        assert_eq!(QemuVersion::parse("QEMU emulator version x.2"), None);
        assert_eq!(QemuVersion::parse(""), None);
    }

    #[test]
    fn an_old_version_is_refused_by_name() {
        let old = QemuVersion { major: 6, minor: 2, micro: 0 };
        let error = old.check(Path::new("/opt/qemu")).unwrap_err();
        assert_eq!(error.to_string(), "/opt/qemu: QEMU 6.2.0 is too old, 7.0.0 is needed");
    }

    #[test]
    fn a_missing_program_names_what_was_tried() {
        let text = |result: Result<PathBuf, VmmError>| result.unwrap_err().to_string();
        assert_eq!(
            text(find(None, "/nonexistent:/etc")),
            "qemu-system-x86_64 is not installed: tried PATH=/nonexistent:/etc"
        );
        assert_eq!(
            text(find(Some(Path::new("/etc/passwd")), "/usr/bin")),
            "qemu-system-x86_64 is not installed: tried /etc/passwd"
        );
    }
}
