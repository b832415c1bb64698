//! The command line, in the syntax of Go's `flag` package.

use std::ffi::OsString;
use std::path::PathBuf;

use runtime_api::{Error, Result};

/// What the program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// `start`: have a server and tell its address.
    Start,
    /// `delete`: remove what a container has left.
    Delete,
    /// `serve`: be the server. Only `start` asks for it.
    Serve,
    /// `-info`: describe the runtime in protobuf.
    Info,
    /// `features`: describe the runtime in the JSON of the OCI.
    Features,
    /// `-v`: name the version.
    Version,
}

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) action: Action,
    pub(crate) debug: bool,
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// The daemon's gRPC address; empty with CRI-O.
    pub(crate) address: String,
    pub(crate) bundle: Option<PathBuf>,
    /// The socket that the server was given.
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Default)]
struct Values {
    debug: bool,
    version: bool,
    info: bool,
    id: String,
    namespace: String,
    address: String,
    publish_binary: String,
    bundle: String,
    socket: String,
}

enum Target<'a> {
    Switch(&'a mut bool),
    Text(&'a mut String),
}

impl Values {
    fn target(&mut self, name: &str) -> Result<Target<'_>> {
        Ok(match name {
            "debug" => Target::Switch(&mut self.debug),
            "v" | "version" => Target::Switch(&mut self.version),
            "info" => Target::Switch(&mut self.info),
            "id" => Target::Text(&mut self.id),
            "namespace" => Target::Text(&mut self.namespace),
            "address" => Target::Text(&mut self.address),
            "publish-binary" => Target::Text(&mut self.publish_binary),
            "bundle" => Target::Text(&mut self.bundle),
            "socket" => Target::Text(&mut self.socket),
            _ => return Err(Error::invalid_argument(format!("flag -{name} is unknown"))),
        })
    }
}

impl Flags {
    /// Parses the arguments that follow the program's name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the argument.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut arguments = arguments.into_iter().map(|argument| {
            argument.into_string().map_err(|argument| {
                Error::invalid_argument(format!("argument {} is not UTF-8", argument.display()))
            })
        });
        let mut values = Values::default();
        let mut word = None;
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let Some(flag) = argument.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                word = Some(argument);
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match values.target(name)? {
                Target::Switch(switch) => *switch = value.is_none_or(|value| value == "true"),
                Target::Text(text) => {
                    *text = match value {
                        Some(value) => value,
                        None => arguments.next().unwrap_or_else(|| {
                            Err(Error::invalid_argument(format!("flag -{name} needs a value")))
                        })?,
                    }
                }
            }
        }
        let action = action(&values, word.as_deref())?;
        let path = |text: String| Some(text).filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(Self {
            action,
            debug: values.debug,
            id: values.id,
            namespace: values.namespace,
            address: values.address,
            bundle: path(values.bundle),
            socket: path(values.socket),
        })
    }
}

fn action(values: &Values, word: Option<&str>) -> Result<Action> {
    match word {
        _ if values.version => Ok(Action::Version),
        _ if values.info => Ok(Action::Info),
        Some("start") => Ok(Action::Start),
        Some("delete") => Ok(Action::Delete),
        Some("serve") => Ok(Action::Serve),
        Some("features") => Ok(Action::Features),
        Some(other) => Err(Error::invalid_argument(format!("action {other:?} is unknown"))),
        None => Err(Error::invalid_argument("an action is missing: start, delete or features")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let start = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a start",
        );
        let start = start.unwrap();
        assert_eq!((start.action, start.id.as_str()), (Action::Start, "a"));
        assert_eq!((start.namespace.as_str(), start.address.as_str()), ("k8s.io", "/run/c.sock"));
        assert_eq!((start.debug, start.bundle), (false, None));

        let delete = parse("-namespace n -address= -id a -bundle /b --debug delete").unwrap();
        assert_eq!((delete.action, delete.debug), (Action::Delete, true));
        assert_eq!((delete.bundle, delete.address.as_str()), (Some("/b".into()), ""));
    }

    #[test]
    fn the_questions_need_no_other_flag() {
        for (line, action) in [
            ("-v", Action::Version),
            ("--version", Action::Version),
            ("-info", Action::Info),
            ("features", Action::Features),
        ] {
            assert_eq!(parse(line).unwrap().action, action, "{line}");
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (line, word) in
            [("-colour red start", "colour"), ("stop", "stop"), ("-id", "-id"), ("", "missing")]
        {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }
}
