//! The log of a shim: a fifo of the bundle, which a daemon makes and reads.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// What its shim writes is read and forgotten for as long as this is kept.
pub(super) struct Log(JoinHandle<()>);

impl Log {
    pub(super) fn open(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        // Open for writing too, so that it does not end when one writer leaves.
        let mut pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        Ok(Self(tokio::spawn(async move {
            let mut block = vec![0; 1 << 14];
            while let Ok(1..) = pipe.read(&mut block).await {}
        })))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.abort();
    }
}
