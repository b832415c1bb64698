//! What a file is, before it is mapped: to load one that was cut off ends the daemon by SIGBUS.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use runtime_api::{Error, ErrorKind, Result, ResultExt};

/// elf(5): the sizes of `Elf64_Ehdr` and `Elf64_Phdr`.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const MAX_PROGRAM_HEADERS: u16 = 1024;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const SHARED_OBJECT: u16 = 3;
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// Checks that the file is a complete shared object for this machine.
pub(super) fn check(path: &Path) -> Result<()> {
    let named = |what: &str| format!("library {}{what}", path.display());
    let mut file = File::open(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, named("")).with_source(error)
    })?;
    let length = file.metadata().internal(|| named(""))?.len();
    let mut header = [0; HEADER];
    let complete = file.read_exact(&mut header).is_ok();
    let problem = match () {
        () if !complete || !header.starts_with(b"\x7fELF") => Some("it is no ELF file"),
        () if header[4] != CLASS_64
            || header[5] != LITTLE_ENDIAN
            || half(&header, 18) != MACHINE =>
        {
            Some("it is for another kind of machine")
        }
        () if half(&header, 16) != SHARED_OBJECT => Some("it is no shared object"),
        () => (end(&file, &header) > length).then_some("it is cut off"),
    };
    match problem {
        None => Ok(()),
        Some(problem) => Err(Error::invalid_argument(named(&format!(": {problem}")))),
    }
}

/// Where the last segment ends that is loaded from the file; the largest number there is when that
/// cannot be read.
fn end(file: &File, header: &[u8]) -> u64 {
    let (offset, count) = (word(header, 32), half(header, 56));
    if usize::from(half(header, 54)) != PROGRAM_HEADER || count > MAX_PROGRAM_HEADERS {
        return u64::MAX;
    }
    let mut table = vec![0; usize::from(count) * PROGRAM_HEADER];
    if file.read_exact_at(&mut table, offset).is_err() {
        return u64::MAX;
    }
    let ends = table.chunks_exact(PROGRAM_HEADER).map(|entry| {
        let (offset, size) = (word(entry, 8), word(entry, 32));
        offset.saturating_add(size)
    });
    ends.max().unwrap_or(0)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Some shared object that every test program is linked with.
    fn libc() -> Vec<u8> {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.split_whitespace().find(|word| word.contains("libc.so")).unwrap();
        fs::read(path).unwrap()
    }

    fn checked(bytes: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        check(file.path())
    }

    #[test]
    fn a_file_is_refused_for_what_it_is() {
        let whole = libc();
        checked(&whole).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        let cases: [(&[u8], &str); 7] = [
            (b"", "no ELF"),
            (b"#!/bin/sh", "no ELF"),
            (&changed(4, 1), "another kind of machine"),
            (&changed(18, 40), "another kind of machine"),
            (&changed(16, 2), "no shared object"),
            (&whole[..whole.len() / 2], "cut off"),
            (&whole[..HEADER], "cut off"),
        ];
        for (bytes, word) in cases {
            let error = checked(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(word), "{error}");
        }
        let missing = check("/no/such/library.so".as_ref()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.chain().contains("/no/such/library.so"));
    }
}
