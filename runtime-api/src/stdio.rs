//! Where the streams of a process go: endpoints, parsed once.

use std::fmt;
use std::path::PathBuf;

use crate::{Error, Result};

/// One end of a stream of a process.
///
/// Its text form is what containerd puts into `CreateTaskRequest.{stdin,stdout,stderr}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// `""`: nothing; input is at its end, output is thrown away.
    #[default]
    Null,
    /// `/path` or `fifo:///path`: a named pipe (fifo(7)) that the caller made.
    Fifo(PathBuf),
    /// `file:///path`: a regular file; output is appended.
    File(PathBuf),
    /// `binary:///path?arguments`: a logging program (containerd, "binary log URI").
    Binary(String),
    /// `channel:`: the owner of the runtime moves the bytes itself. It is the form inside a guest.
    Channel,
}

impl Endpoint {
    /// Parses the text form.
    ///
    /// # Errors
    /// `InvalidArgument` for a relative path or a scheme that is not listed above.
    pub fn parse(text: &str) -> Result<Self> {
        let absolute = |path: &str| -> Result<PathBuf> {
            if path.starts_with('/') && !path.contains('\0') {
                Ok(PathBuf::from(path))
            } else {
                Err(Error::invalid_argument(format!("stream {text:?} is not an absolute path")))
            }
        };
        match text.split_once(':') {
            None if text.is_empty() => Ok(Self::Null),
            Some(("channel", "")) => Ok(Self::Channel),
            Some(("fifo", rest)) => absolute(rest.trim_start_matches("//")).map(Self::Fifo),
            Some(("file", rest)) => {
                let path = rest.trim_start_matches("//");
                absolute(path.split('?').next().unwrap_or_default()).map(Self::File)
            }
            Some(("binary", _)) => Ok(Self::Binary(text.to_owned())),
            Some((scheme, rest)) if rest.starts_with("//") => Err(Error::invalid_argument(
                format!("stream {text:?} has the unknown scheme {scheme:?}"),
            )),
            _ => absolute(text).map(Self::Fifo),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Fifo(path) => write!(f, "{}", path.display()),
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Binary(uri) => f.write_str(uri),
            Self::Channel => f.write_str("channel:"),
        }
    }
}

/// The streams of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Where input comes from.
    pub stdin: Endpoint,
    /// Where output goes.
    pub stdout: Endpoint,
    /// Where error output goes; unused with a terminal.
    pub stderr: Endpoint,
    /// Whether the process gets a pseudo terminal (pty(7)).
    pub terminal: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_survive_a_round_trip() {
        for text in ["", "/run/f/stdout", "file:///var/log/x", "binary:///bin/l?id=a", "channel:"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse("fifo:///a/b").unwrap(), Endpoint::Fifo("/a/b".into()));
        assert_eq!(Endpoint::parse("/with:colon").unwrap(), Endpoint::Fifo("/with:colon".into()));
    }

    #[test]
    fn an_unknown_scheme_or_a_relative_path_is_refused() {
        for bad in ["stdout", "http://x/y", "file://relative", "channel:x"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }
}
