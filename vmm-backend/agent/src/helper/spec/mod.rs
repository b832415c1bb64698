//! The part of an OCI runtime specification that a guest acts upon.
//!
//! What the reference runtime honours and this one does not is refused by name, never passed over.
//! The exceptions: `hooks` of the host, which the host has refused or run, and the rules for devices
//! in `linux.resources`, because a guest has no device but its own.

mod linux;
mod object;
mod process;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde_json::Value;

pub(super) use linux::{Linux, Mapping};
pub(super) use object::Object;
pub(super) use process::Process;

use super::mounts::Mount;

/// A container as its `config.json` describes it.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    /// Relative to the bundle, perhaps.
    pub(super) root: PathBuf,
    pub(super) root_is_read_only: bool,
    pub(super) process: Process,
    pub(super) hostname: Option<&'a str>,
    pub(super) domainname: Option<&'a str>,
    pub(super) mounts: Vec<Mount>,
    pub(super) linux: Linux<'a>,
}

/// Reads `config.json` of a bundle.
///
/// # Errors
/// `NotFound` when there is none; `InvalidArgument` when it is no JSON document.
pub(super) fn load(bundle: &Path) -> Result<Value> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("read {}", path.display())).with_source(error)
    })?;
    serde_json::from_slice(&text)
        .kind(ErrorKind::InvalidArgument, || format!("parse {}", path.display()))
}

impl<'a> Spec<'a> {
    pub(super) fn parse(document: &'a Value) -> Result<Self> {
        let spec = Object::of(document, "config.json")?;
        spec.refuse(&["hooks"])?;
        let missing =
            |what: &str| Error::invalid_argument(format!("config.json: there is no {what}"));
        let root = spec.object("root")?.ok_or_else(|| missing("root"))?;
        let process = spec.object("process")?.ok_or_else(|| missing("process"))?;
        let text = |name| spec.text(name).map(|text| text.filter(|text: &&str| !text.is_empty()));
        Ok(Self {
            root: root.required("root.path")?.into(),
            root_is_read_only: root.flag("root.readonly")?.unwrap_or(false),
            process: Process::parse(process)?,
            hostname: text("hostname")?,
            domainname: text("domainname")?,
            mounts: spec.objects("mounts")?.into_iter().map(Mount::parse).collect::<Result<_>>()?,
            linux: spec.object("linux")?.map(Linux::parse).transpose()?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn loaded(config: &str) -> Result<()> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let document = load(bundle.path())?;
        Spec::parse(&document).map(drop)
    }

    #[test]
    fn a_broken_bundle_is_named() {
        let missing = tempfile::tempdir().unwrap();
        assert_eq!(load(missing.path()).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(loaded("{").unwrap_err().kind(), ErrorKind::InvalidArgument);
        let rootless = loaded(r#"{"process":{"args":["x"],"cwd":"/"}}"#).unwrap_err();
        assert_eq!(rootless.chain(), "config.json: there is no root");
    }

    #[test]
    fn what_a_guest_does_not_do_is_refused() {
        for (key, value) in [
            ("hooks", json!({"poststop": [{"path": "/x"}]})),
            ("linux", json!({"personality": {"domain": "LINUX32"}})),
            ("linux", json!({"namespaces": [{"type": "time"}]})),
        ] {
            let mut config = json!({"root": {"path": "r"}, "process": {"args": ["x"], "cwd": "/"}});
            config[key] = value;
            let error = Spec::parse(&config).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unimplemented, "{}", error.chain());
        }
    }
}
