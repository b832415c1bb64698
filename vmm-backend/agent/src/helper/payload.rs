//! The file of a program and its environment, as seen from inside of the container.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};
use runtime_api::{Error, ErrorKind, Result};

use super::root::is_directory;
use super::spec::Process;

/// Where programs are looked for when the process has no PATH (runc's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest /etc/passwd that is searched.
const MAX_PASSWD: u64 = 1 << 20;

/// Finds the program that `args` name, with the rights and in the root of the calling process.
///
/// # Errors
/// `NotFound` when it is not there; `InvalidArgument` when it cannot be run.
pub(super) fn find(args: &[String], env: &[String]) -> Result<PathBuf> {
    let name = args
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid_argument("process.args is empty"))?;
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) => Err(refused(name, error)),
        };
    }
    let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut last = None;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => refused(name, error),
        None => Error::not_found(format!("exec: {name:?}: executable file not found in $PATH")),
    })
}

fn check(path: &Path) -> Result<(), Errno> {
    // One descriptor for both questions: each component of a path is a request to the host.
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if is_directory(&file)? {
        return Err(Errno::EISDIR);
    }
    let flags = AtFlags::AT_EACCESS | AtFlags::AT_EMPTY_PATH;
    faccessat(&file, c"", AccessFlags::X_OK, flags)
}

/// The error for a program that cannot be run.
pub(super) fn refused(name: &str, error: Errno) -> Error {
    let kind = match error {
        Errno::ENOENT | Errno::ENOTDIR => ErrorKind::NotFound,
        _ => ErrorKind::InvalidArgument,
    };
    Error::new(kind, format!("exec: {name:?}: {}", lower(error)))
}

/// The description of an error, as it reads inside a line.
pub(super) fn lower(error: Errno) -> String {
    let mut text = error.desc().to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}

/// The environment of a process: its own, and HOME, which the specification of a user implies.
pub(super) fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        let mut passwd = String::new();
        // A container need not have such a file.
        let read = File::open("/etc/passwd")
            .and_then(|file| file.take(MAX_PASSWD).read_to_string(&mut passwd));
        let home = read.ok().and_then(|_| home_of(&passwd, process.user.uid));
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    env
}

/// The home directory of a user (passwd(5)).
fn home_of(passwd: &str, uid: u32) -> Option<&str> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.nth(2)? == uid).then(|| fields.nth(2)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_one(name: &str, path: &str) -> Result<PathBuf> {
        find(&[name.to_owned()], &[format!("PATH={path}")])
    }

    #[test]
    fn a_program_is_found_by_path_and_by_name() {
        assert_eq!(find_one("/bin/sh", "").unwrap(), PathBuf::from("/bin/sh"));
        assert_eq!(find_one("sh", "/nowhere:/bin").unwrap(), PathBuf::from("/bin/sh"));
    }

    #[test]
    fn what_cannot_be_run_is_named_in_one_line() {
        for (name, kind, line) in [
            ("/nope", ErrorKind::NotFound, "exec: \"/nope\": no such file or directory"),
            ("nope", ErrorKind::NotFound, "exec: \"nope\": executable file not found in $PATH"),
            ("/etc", ErrorKind::InvalidArgument, "exec: \"/etc\": is a directory"),
            ("/etc/passwd", ErrorKind::InvalidArgument, "exec: \"/etc/passwd\": permission denied"),
        ] {
            let error = find_one(name, "/bin").unwrap_err();
            assert_eq!((error.kind(), error.chain().as_str()), (kind, line));
        }
        assert_eq!(find(&[], &[]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn the_home_directory_is_the_users() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(home_of(passwd, 0), Some("/root"));
        assert_eq!(home_of(passwd, 1000), Some("/home/ann"));
        assert_eq!(home_of(passwd, 7), None);
    }
}
