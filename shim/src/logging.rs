//! The log: lines in the form of logrus into the fifo that the daemon reads.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::libc;

use crate::flags::Flags;

/// The fifo that the daemon makes in the bundle.
const FIFO: &str = "log";

/// The longest line: up to this size a write to a pipe is whole or not at all (`PIPE_BUF`, pipe(7)).
const MAX_LINE: usize = 4096;

struct Logger {
    fifo: File,
    /// What every line ends with.
    origin: String,
}

/// Sends the log to the fifo in the working directory. Without a fifo nothing is logged: there is no
/// other place where somebody would look.
pub(crate) fn init(flags: &Flags) {
    let Some(fifo) = open(Path::new(FIFO)) else { return };
    let origin = format!("id={} namespace={}", quoted(&flags.id), quoted(&flags.namespace));
    if log::set_boxed_logger(Box::new(Logger { fifo, origin })).is_ok() {
        log::set_max_level(if flags.debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

/// Opens the fifo for both directions, so that the daemon's restart is neither the end of the log
/// nor an error: lines wait in the pipe for the next reader, and are dropped when it is full.
fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()).then_some(file)
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        let line = line(SystemTime::now(), record.level(), &message, &self.origin);
        // A full pipe drops the line: nothing may ever wait for the reader of the log.
        let _ = (&self.fifo).write(line.as_bytes());
    }

    fn flush(&self) {}
}

fn line(at: SystemTime, level: Level, message: &str, origin: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut line = format!("time=\"{}\" level={level} msg={}", rfc3339(at), quoted(message));
    let room = MAX_LINE.saturating_sub(origin.len() + 3);
    if line.len() > room {
        let end = (0..=room.saturating_sub(4)).rev().find(|&end| line.is_char_boundary(end));
        line.truncate(end.unwrap_or_default());
        line.push_str("...\"");
    }
    let _ = writeln!(line, " {origin}");
    line
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => quoted.push('?'),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date of a day since 1970-01-01. Years are counted from March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::io::Read as _;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_772_323_199, "2026-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn a_line_is_one_line_of_bounded_size() {
        let plain = line(UNIX_EPOCH, Level::Warn, "say \"hi\"\nthere", "id=\"a\"");
        let expected = "time=\"1970-01-01T00:00:00.000Z\" level=warning msg=\"say \\\"hi\\\"\\nthere\" id=\"a\"\n";
        assert_eq!(plain, expected);
        let long = line(UNIX_EPOCH, Level::Info, &"ä".repeat(MAX_LINE), "id=\"a\"");
        assert!(long.len() <= MAX_LINE && long.ends_with("...\" id=\"a\"\n"), "{}", long.len());
    }

    #[test]
    fn a_full_fifo_drops_lines_and_an_absent_one_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FIFO);
        assert!(open(&path).is_none());
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let logger = Logger { fifo: open(&path).unwrap(), origin: "id=a".into() };
        for _ in 0..10_000 {
            logger.log(&Record::builder().args(format_args!("lost")).build());
        }
        let mut head = [0; 5];
        File::open(&path).unwrap().read_exact(&mut head).unwrap();
        assert_eq!(&head, b"time=");
    }

    #[test]
    fn a_regular_file_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FIFO);
        std::fs::write(&path, "").unwrap();
        assert!(open(&path).is_none());
    }
}
