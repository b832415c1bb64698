//! What the processes that libcontainer forks have found wrong.
//!
//! They tell their parent no more than the outermost message of an error, and log the rest. So this
//! listens to the log, in memory that all of them share: a file whose descriptor they inherit.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Metadata, Subscriber};

use super::protocol::Fault;

static FILE: OnceLock<File> = OnceLock::new();

/// The longest detail that is kept; what is longer is a dump and no message.
const MAX_DETAIL: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
enum Finding {
    /// The reason, told by ourselves.
    Ours { fault: Fault, message: String },
    /// A line of libcontainer's log.
    Logged { message: String, error: String },
}

/// Begins to listen. Called once.
pub(super) fn listen() -> Result<()> {
    let file = memfd_create("findings", MFdFlags::MFD_CLOEXEC)
        .internal(|| "make a file for what goes wrong")?;
    if FILE.set(file.into()).is_ok() {
        tracing::subscriber::set_global_default(Listener)
            .internal(|| "listen to the log of libcontainer")?;
    }
    Ok(())
}

/// Tells the reason of a failure to the helper, from whichever process of it.
pub(super) fn tell(error: &Error) {
    note(&Finding::Ours { fault: Fault::of(error.kind()), message: error.chain() });
}

/// The reason that was told, if any.
pub(super) fn told() -> Option<Error> {
    read().unwrap_or_default().into_iter().find_map(|finding| match finding {
        Finding::Ours { fault, message } => Some(Error::new(fault.kind(), message)),
        Finding::Logged { .. } => None,
    })
}

/// Makes one error of what libcontainer has returned and what was found.
pub(super) fn explain(attempt: &str, cwd: &str, returned: &dyn std::error::Error) -> Error {
    let findings = read().unwrap_or_default();
    for finding in &findings {
        match finding {
            Finding::Ours { fault, message } => return Error::new(fault.kind(), message.as_str()),
            Finding::Logged { message, error } if message == "failed to chdir" => {
                return Error::invalid_argument(format!("chdir to cwd {cwd:?}: {error}"));
            }
            Finding::Logged { .. } => {}
        }
    }
    // The first line is the innermost one.
    let reason = findings.iter().find_map(|finding| match finding {
        Finding::Logged { message, error } if is_short(message) && is_short(error) => {
            Some(format!("{message}: {error}"))
        }
        Finding::Logged { message, .. } if is_short(message) => {
            Some(format!("{message}: {returned}"))
        }
        _ => None,
    });
    let reason = reason.unwrap_or_else(|| returned.to_string());
    Error::new(ErrorKind::Internal, format!("{attempt}: {reason}"))
}

fn is_short(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_DETAIL && !text.contains(['{', '\n'])
}

fn note(finding: &Finding) {
    let Some(mut file) = FILE.get() else { return };
    if let Ok(mut line) = serde_json::to_vec(finding) {
        line.push(b'\n');
        // There is nobody left to tell when this fails.
        let _ = file.write_all(&line);
    }
}

fn read() -> io::Result<Vec<Finding>> {
    let Some(mut file) = FILE.get() else { return Ok(Vec::new()) };
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Hears errors and nothing else.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == tracing::Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        note(&Finding::Logged { message: line.message, error: line.error });
    }

    fn new_span(&self, _attributes: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    error: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "err" | "error" | "e" | "errno" => &mut self.error,
            _ => return,
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{value:?}");
    }
}
