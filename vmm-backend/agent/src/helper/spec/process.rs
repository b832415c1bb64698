//! The `process` object of a specification.

use std::path::PathBuf;

use nix::sys::resource::Resource;
use runtime_api::{Error, Result, WindowSize};

use super::Object;
use crate::helper::capabilities::Capabilities;

/// A process as the specification describes it.
#[derive(Debug)]
pub(in crate::helper) struct Process {
    pub(in crate::helper) terminal: bool,
    pub(in crate::helper) size: Option<WindowSize>,
    pub(in crate::helper) user: User,
    /// Never empty.
    pub(in crate::helper) args: Vec<String>,
    pub(in crate::helper) env: Vec<String>,
    /// Absolute.
    pub(in crate::helper) cwd: PathBuf,
    pub(in crate::helper) capabilities: Capabilities,
    pub(in crate::helper) limits: Vec<Limit>,
    pub(in crate::helper) no_new_privileges: bool,
    pub(in crate::helper) oom_score_adj: Option<i32>,
}

#[derive(Debug)]
pub(in crate::helper) struct User {
    pub(in crate::helper) uid: u32,
    pub(in crate::helper) gid: u32,
    pub(in crate::helper) groups: Vec<u32>,
    pub(in crate::helper) umask: Option<u32>,
}

/// A limit of setrlimit(2).
#[derive(Debug)]
pub(in crate::helper) struct Limit {
    pub(in crate::helper) resource: Resource,
    pub(in crate::helper) soft: u64,
    pub(in crate::helper) hard: u64,
}

/// What the reference runtime would honour, or refuse, and this one cannot honour.
const UNSUPPORTED: &[&str] = &[
    "process.apparmorProfile",
    "process.selinuxLabel",
    "process.scheduler",
    "process.ioPriority",
    "process.execCPUAffinity",
];

impl Process {
    pub(in crate::helper) fn parse(process: Object<'_>) -> Result<Self> {
        process.refuse(UNSUPPORTED)?;
        let args = process.texts("process.args")?;
        if args.is_empty() {
            return Err(Error::invalid_argument("process.args is empty"));
        }
        let cwd = PathBuf::from(process.text("process.cwd")?.unwrap_or_default());
        if !cwd.is_absolute() {
            let message = format!("process.cwd {} is not absolute", cwd.display());
            return Err(Error::invalid_argument(message));
        }
        let size = process.object("process.consoleSize")?.map(size).transpose()?;
        Ok(Self {
            terminal: process.flag("process.terminal")?.unwrap_or(false),
            size,
            user: User::parse(process.object("process.user")?)?,
            args,
            env: process.texts("process.env")?,
            cwd,
            capabilities: Capabilities::parse(process.object("process.capabilities")?)?,
            limits: process
                .objects("process.rlimits")?
                .into_iter()
                .map(Limit::parse)
                .collect::<Result<_>>()?,
            no_new_privileges: process.flag("process.noNewPrivileges")?.unwrap_or(false),
            oom_score_adj: process.number("process.oomScoreAdj")?,
        })
    }
}

fn size(size: Object<'_>) -> Result<WindowSize> {
    Ok(WindowSize {
        width: size.number("process.consoleSize.width")?.unwrap_or(0),
        height: size.number("process.consoleSize.height")?.unwrap_or(0),
    })
}

impl User {
    fn parse(user: Option<Object<'_>>) -> Result<Self> {
        let Some(user) = user else {
            return Ok(Self { uid: 0, gid: 0, groups: Vec::new(), umask: None });
        };
        Ok(Self {
            uid: user.number("process.user.uid")?.unwrap_or(0),
            gid: user.number("process.user.gid")?.unwrap_or(0),
            groups: user.numbers("process.user.additionalGids")?,
            umask: user.number("process.user.umask")?,
        })
    }
}

impl Limit {
    fn parse(limit: Object<'_>) -> Result<Self> {
        let name = limit.required("process.rlimits.type")?;
        let resource = match name {
            "RLIMIT_AS" => Resource::RLIMIT_AS,
            "RLIMIT_CORE" => Resource::RLIMIT_CORE,
            "RLIMIT_CPU" => Resource::RLIMIT_CPU,
            "RLIMIT_DATA" => Resource::RLIMIT_DATA,
            "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
            "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
            "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
            "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
            "RLIMIT_NICE" => Resource::RLIMIT_NICE,
            "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
            "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
            "RLIMIT_RSS" => Resource::RLIMIT_RSS,
            "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
            "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
            "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
            "RLIMIT_STACK" => Resource::RLIMIT_STACK,
            _ => {
                let message = format!("process.rlimits.type cannot be {name:?}");
                return Err(Error::invalid_argument(message));
            }
        };
        Ok(Self {
            resource,
            soft: limit.number("process.rlimits.soft")?.unwrap_or(0),
            hard: limit.number("process.rlimits.hard")?.unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: &Value) -> Result<Process> {
        Process::parse(Object::of(value, "process").unwrap())
    }

    #[test]
    fn a_process_is_read_with_its_defaults() {
        let process = parse(&json!({"args": ["x"], "cwd": "/"})).unwrap();
        assert_eq!((process.user.uid, process.terminal, process.oom_score_adj), (0, false, None));
        let limit = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": u64::MAX});
        let process = parse(&json!({
            "args": ["x"], "cwd": "/", "rlimits": [limit], "consoleSize": {"width": 8, "height": 4}
        }))
        .unwrap();
        assert_eq!((process.limits[0].soft, process.limits[0].hard), (1, u64::MAX));
        assert_eq!(process.size, Some(WindowSize { width: 8, height: 4 }));
    }

    #[test]
    fn a_process_that_cannot_be_is_refused_by_name() {
        for (value, line) in [
            (json!({"cwd": "/"}), "process.args is empty"),
            (json!({"args": ["x"], "cwd": "a"}), "process.cwd a is not absolute"),
            (
                json!({"args": ["x"], "cwd": "/", "rlimits": [{"type": "X"}]}),
                "process.rlimits.type",
            ),
            (
                json!({"args": ["x"], "cwd": "/", "scheduler": {"policy": "SCHED_RR"}}),
                "process.scheduler",
            ),
        ] {
            let error = parse(&value).unwrap_err().chain();
            assert!(error.starts_with(line), "{error}");
        }
    }
}
