//! How far the output of a process has been passed on, where that has to outlive this process.
//!
//! ```text
//!   16 bytes: stdout, stderr; each the number of bytes that its endpoint has taken, little-endian
//! ```
//!
//! A number is written after the bytes that it counts. If this process is killed between the two,
//! a part of one chunk is passed on twice; none is ever lost.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use guest_api::Stream;
use runtime_api::{Result, ResultExt};

/// The journal of one process.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    /// Opens the journal, which is made if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(path).map(Self).internal(|| format!("open {}", path.display()))
    }

    /// How much of a stream has been passed on.
    pub(crate) fn passed_on(&self, stream: Stream) -> u64 {
        let mut number = [0; 8];
        match self.0.read_exact_at(&mut number, place(stream)) {
            Ok(()) => u64::from_le_bytes(number),
            // Nothing was written yet.
            Err(_) => 0,
        }
    }

    /// Notes how much has been passed on.
    pub(crate) fn note(&self, stream: Stream, count: u64) {
        // Where that fails, a restart repeats what it could have known to be done.
        if let Err(error) = self.0.write_all_at(&count.to_le_bytes(), place(stream)) {
            log::warn!("note the progress of {stream:?}: {error}");
        }
    }
}

fn place(stream: Stream) -> u64 {
    match stream {
        Stream::STREAM_STDERR => 8,
        Stream::STREAM_STDOUT | Stream::STREAM_UNSPECIFIED => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_a_number_that_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.progress");
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.passed_on(Stream::STREAM_STDERR), 0);
        journal.note(Stream::STREAM_STDERR, 3);
        journal.note(Stream::STREAM_STDOUT, 1 << 40);
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.passed_on(Stream::STREAM_STDOUT), 1 << 40);
        assert_eq!(again.passed_on(Stream::STREAM_STDERR), 3);
    }
}
