//! Client commands, timed and with deadlines.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::interrupt::{GLANCE, check};

/// How much of what a failed command said is repeated.
const SAID: usize = 400;

/// A command that came to its end by itself.
pub(crate) struct Finished<R = Vec<u8>> {
    /// From before its start until after its end.
    pub(crate) took: Duration,
    /// What was read from its output.
    pub(crate) output: R,
}

impl Finished {
    /// Its output as text without blanks around it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(command: Command, deadline: Duration) -> Result<Finished, Failure> {
    run_reading(command, deadline, read_all)
}

/// [`run`] with the way to read the output. The signal for an early end kills the command.
pub(crate) fn run_reading<R: Send + 'static>(
    command: Command,
    deadline: Duration,
    read: impl FnOnce(ChildStdout) -> R + Send + 'static,
) -> Result<Finished<R>, Failure> {
    check()?;
    wait(command, deadline, read, check)
}

/// [`run`] for the clean-up, which an early end must not abandon.
pub(crate) fn run_regardless(command: Command, deadline: Duration) -> Result<Finished, Failure> {
    wait(command, deadline, read_all, || Ok(()))
}

fn read_all(mut stdout: ChildStdout) -> Vec<u8> {
    let mut output = Vec::new();
    let _ = stdout.read_to_end(&mut output);
    output
}

fn wait<R: Send + 'static>(
    mut command: Command,
    deadline: Duration,
    read: impl FnOnce(ChildStdout) -> R + Send + 'static,
    go_on: impl Fn() -> Result<(), Failure>,
) -> Result<Finished<R>, Failure> {
    let shown = shown(&command);
    // A group of its own: a terminal's signal reaches the bench alone, which ends what it started.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let began = Instant::now();
    let child = command.spawn().map_err(|source| Failure::io(format!("start {shown}"), source))?;
    let pid = child.id();
    let end = watch(child, read)?;
    loop {
        let stopped = match end.recv_timeout(GLANCE) {
            Ok(end) => return judge(end, shown, began),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Unexpected(format!("nobody waits for {shown}")));
            }
            Err(RecvTimeoutError::Timeout) if began.elapsed() > deadline => {
                Failure::Deadline { command: shown.clone(), deadline }
            }
            Err(RecvTimeoutError::Timeout) => match go_on() {
                Ok(()) => continue,
                Err(failure) => failure,
            },
        };
        let _ = Command::new("kill").args(["-9", "--", &format!("-{pid}")]).status();
        let _ = end.recv_timeout(Duration::from_secs(5));
        return Err(stopped);
    }
}

struct End<R> {
    at: Instant,
    code: io::Result<Option<i32>>,
    output: R,
    errors: Vec<u8>,
}

/// Reads both streams and waits, on threads of their own.
fn watch<R: Send + 'static>(
    mut child: Child,
    read: impl FnOnce(ChildStdout) -> R + Send + 'static,
) -> Result<Receiver<End<R>>, Failure> {
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::Unexpected("a child without pipes".into()));
    };
    let (sender, end) = channel();
    let errors = thread::spawn(move || {
        let mut errors = Vec::new();
        let _ = stderr.read_to_end(&mut errors);
        errors
    });
    thread::spawn(move || {
        let output = read(stdout);
        let code = child.wait().map(|status| status.code());
        let at = Instant::now();
        let errors = errors.join().unwrap_or_default();
        let _ = sender.send(End { at, code, output, errors });
    });
    Ok(end)
}

fn judge<R>(end: End<R>, command: String, began: Instant) -> Result<Finished<R>, Failure> {
    match end.code.map_err(|source| Failure::io(format!("wait for {command}"), source))? {
        Some(0) => Ok(Finished { took: end.at - began, output: end.output }),
        code => {
            let said = String::from_utf8_lossy(&end.errors).trim().chars().take(SAID).collect();
            Err(Failure::Command { command, code: code.unwrap_or(-1), said })
        }
    }
}

/// The words of a command, without the client's own options.
fn shown(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let mut words: Vec<_> = words.collect();
    if words.first().is_some_and(|word| word == "-a") {
        words.drain(..4.min(words.len()));
    }
    format!("{} {}", command.get_program().display(), words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let began = Instant::now();
        let result = run(shell("sleep 100 & sleep 100"), Duration::from_millis(200));
        assert!(matches!(result, Err(Failure::Deadline { .. })));
        assert!(began.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_command_that_fails_is_named_with_what_it_said() {
        let result = run(shell("echo no >&2; exit 3"), Duration::from_secs(10));
        let text = result.map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("sh -c") && text.contains("3: no"), "{text}");
    }

    #[test]
    fn output_and_time_are_those_of_the_command() {
        let finished =
            run(shell("echo a; sleep 0.2; echo b >&2"), Duration::from_secs(10)).unwrap();
        assert_eq!(finished.text(), "a");
        assert!(finished.took >= Duration::from_millis(200), "{:?}", finished.took);
    }
}
