//! The two dialects in which a daemon asks for a server and hears of its address.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::protobuf::Message;
use runtime_api::{Result, ResultExt};

use crate::flags::Flags;

/// The environment variable in which daemons before 2.3 name their event service.
pub(crate) const EVENTS_VARIABLE: &str = "TTRPC_ADDRESS";

/// More than any daemon sends.
const MAX_INPUT: u64 = 1 << 20;

/// The version of the Task service that we offer to daemons that ask.
const TASK_VERSION: i32 = 3;

/// How the daemon wants to hear of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// The bare address: every daemon but containerd 2.3 and later. Its JSON form would name the
    /// version too, but 1.6 does not know it and 1.7 and CRI-O refuse version 3.
    Plain,
    /// A `BootstrapResult`, in answer to `BootstrapParams` (containerd 2.3 and later).
    Protobuf,
}

/// What comes with a request for a server besides the flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    dialect: Dialect,
    /// The address of the daemon's event service; empty when it has none (CRI-O).
    pub(crate) events_address: String,
    /// The directory that the daemon wants the socket in.
    pub(crate) socket_directory: Option<PathBuf>,
    /// Whether to log the details.
    pub(crate) debug: bool,
}

impl Bootstrap {
    /// Reads the rest of the request from standard input and the environment.
    ///
    /// # Errors
    /// `Internal` when standard input cannot be read.
    pub(crate) fn receive(flags: &Flags) -> Result<Self> {
        let stdin = io::stdin();
        let mut input = Vec::new();
        // By hand, from a terminal, nobody ends the input.
        if !stdin.is_terminal() {
            stdin.lock().take(MAX_INPUT).read_to_end(&mut input).internal(|| "read stdin")?;
        }
        Ok(Self::parse(&input, flags, std::env::var_os(EVENTS_VARIABLE)))
    }

    /// Anything but parameters for this very container is legacy input: an `Any` with the runtime's
    /// options, which also parses as parameters with its type as the id. Those options come again
    /// with Create.
    fn parse(input: &[u8], flags: &Flags, events_variable: Option<OsString>) -> Self {
        let params = BootstrapParams::parse_from_bytes(input).ok().filter(|params| {
            !input.is_empty()
                && params.instance_id == flags.id
                && params.namespace == flags.namespace
        });
        let Some(params) = params else {
            let variable = events_variable.unwrap_or_default();
            return Self {
                dialect: Dialect::Plain,
                events_address: variable.to_string_lossy().into_owned(),
                socket_directory: None,
                debug: flags.debug,
            };
        };
        let directory = params.socket_dir.filter(|directory| !directory.is_empty());
        Self {
            dialect: Dialect::Protobuf,
            events_address: params.containerd_ttrpc_address,
            socket_directory: directory.map(PathBuf::from),
            debug: flags.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
        }
    }

    /// The bytes that tell the daemon of `address`.
    ///
    /// # Errors
    /// `Internal` when they cannot be encoded.
    pub(crate) fn reply(&self, address: &str) -> Result<Vec<u8>> {
        match self.dialect {
            Dialect::Plain => Ok(address.as_bytes().to_vec()),
            Dialect::Protobuf => BootstrapResult {
                version: TASK_VERSION,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .write_to_bytes()
            .internal(|| "encode BootstrapResult"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::EnumOrUnknown;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    const ADDRESS: &str = "unix:///run/containerd/s/0";

    fn flags() -> Flags {
        Flags::parse(["-id", "a", "-namespace", "n", "start"].map(OsString::from)).unwrap()
    }

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "a".into(),
            namespace: "n".into(),
            containerd_ttrpc_address: "unix:///run/c.ttrpc".into(),
            ..Default::default()
        }
    }

    #[test]
    fn legacy_input_gets_the_bare_address() {
        let options = Any { type_url: "a.Options".into(), value: vec![1], ..Default::default() };
        let foreign = BootstrapParams { instance_id: "b".into(), ..params() };
        for input in [
            Vec::new(),
            options.write_to_bytes().unwrap(),
            foreign.write_to_bytes().unwrap(),
            b"\xff\xff not protobuf".to_vec(),
        ] {
            let bootstrap = Bootstrap::parse(&input, &flags(), Some("/run/c.ttrpc".into()));
            assert_eq!(bootstrap.reply(ADDRESS).unwrap(), ADDRESS.as_bytes());
            assert_eq!(bootstrap.events_address, "/run/c.ttrpc");
        }
    }

    #[test]
    fn parameters_get_a_result_of_version_3() {
        let input = BootstrapParams { socket_dir: Some("/run/s".into()), ..params() };
        let bootstrap = Bootstrap::parse(&input.write_to_bytes().unwrap(), &flags(), None);
        assert_eq!(bootstrap.events_address, "unix:///run/c.ttrpc");
        assert_eq!(bootstrap.socket_directory, Some("/run/s".into()));
        assert!(!bootstrap.debug);
        let reply = bootstrap.reply(ADDRESS).unwrap();
        let result = BootstrapResult::parse_from_bytes(&reply).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        assert_eq!(result.address, ADDRESS);
    }

    #[test]
    fn a_log_level_from_debug_down_means_debug() {
        for (level, debug) in [(-8, true), (-5, true), (-4, true), (-3, false), (8, false)] {
            let input = BootstrapParams { log_level: EnumOrUnknown::from_i32(level), ..params() };
            let bootstrap = Bootstrap::parse(&input.write_to_bytes().unwrap(), &flags(), None);
            assert_eq!(bootstrap.debug, debug, "{level}");
        }
    }

    #[test]
    fn an_empty_or_missing_event_address_is_accepted() {
        for variable in [None, Some(OsString::new())] {
            assert_eq!(Bootstrap::parse(&[], &flags(), variable).events_address, "");
        }
    }
}
