//! What tells a file from another one, and from itself after a change, without reading it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The identity of a file: it says as much as a hash as long as nobody sets the clock back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    path: PathBuf,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change of the contents.
    modified: (i64, i64),
    /// Those of the last change of the inode, which no program can set.
    changed: (i64, i64),
}

impl FileIdentity {
    /// The identity of the file that `path` names now; links are followed.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The identity that it will have under another path, once a directory above it is renamed.
    pub(crate) fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// Whether the path still names this very file, unchanged.
    pub fn holds(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_contents_or_of_the_file_itself_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let identity = FileIdentity::of(&path).unwrap();
        assert!(identity.holds());
        fs::write(&path, "other").unwrap();
        assert!(!identity.holds());
        let identity = FileIdentity::of(&path).unwrap();
        fs::write(directory.path().join("new"), "other").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert!(!identity.holds());
        fs::remove_file(&path).unwrap();
        assert!(!identity.holds());
    }
}
