//! The bundle: the directory of a container, and the working directory of the shim.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use runtime_api::{ContainerId, ErrorKind, Grouping, Result, ResultExt};
use serde::Deserialize;

use crate::flags::Flags;

/// The file in which `start` leaves the address for a daemon that has restarted.
const ADDRESS_FILE: &str = "address";

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct Bundle(PathBuf);

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

impl Bundle {
    /// The bundle that the flags name, else the working directory.
    ///
    /// # Errors
    /// `Internal` when there is no working directory.
    pub(crate) fn of(flags: &Flags) -> Result<Self> {
        match &flags.bundle {
            Some(bundle) => Ok(Self(bundle.clone())),
            None => Ok(Self(std::env::current_dir().internal(|| "find the working directory")?)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The sandbox to which the spec assigns `container`. A sandbox that is created through the
    /// Sandbox API has no spec yet, and is its own.
    ///
    /// # Errors
    /// `InvalidArgument` for a spec that cannot be read.
    pub(crate) fn grouping(&self, container: &ContainerId) -> Result<Grouping> {
        let path = self.0.join("config.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            other => other.internal(|| format!("read {}", path.display()))?,
        };
        let spec: Spec = serde_json::from_slice(&text)
            .kind(ErrorKind::InvalidArgument, || format!("parse {}", path.display()))?;
        let annotations = spec.annotations.unwrap_or_default();
        Grouping::of(container, |name| annotations.get(name).map(String::as_str))
    }

    /// Leaves the address of the server for a daemon that restarts.
    ///
    /// # Errors
    /// `Internal` naming the file.
    pub(crate) fn write_address(&self, address: &str) -> Result<()> {
        // The daemon may read at any time: it finds the whole address or none.
        let (draft, path) = (self.0.join(".address"), self.0.join(ADDRESS_FILE));
        fs::write(&draft, address)
            .and_then(|()| fs::rename(&draft, &path))
            .internal(|| format!("write {}", path.display()))
    }

    /// The socket named in the file that [`write_address`](Self::write_address) has left.
    pub(crate) fn recorded_socket(&self) -> Option<PathBuf> {
        let address = fs::read_to_string(self.0.join(ADDRESS_FILE)).ok()?;
        address.strip_prefix("unix://").map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox_of(spec: Option<&str>) -> Result<String> {
        let directory = tempfile::tempdir().unwrap();
        if let Some(spec) = spec {
            fs::write(directory.path().join("config.json"), spec).unwrap();
        }
        let bundle = Bundle(directory.path().to_owned());
        let grouping = bundle.grouping(&ContainerId::parse("app").unwrap())?;
        Ok(grouping.sandbox.to_string())
    }

    #[test]
    fn the_spec_assigns_the_sandbox() {
        let cri =
            r#"{"process":{"args":["x"]},"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_eq!(sandbox_of(Some(cri)).unwrap(), "pod");
        for alone in [None, Some("{}"), Some(r#"{"annotations":null}"#)] {
            assert_eq!(sandbox_of(alone).unwrap(), "app", "{alone:?}");
        }
    }

    #[test]
    fn a_broken_spec_is_an_error() {
        let error = sandbox_of(Some("{")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn the_address_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = Bundle(directory.path().to_owned());
        assert_eq!(bundle.recorded_socket(), None);
        bundle.write_address("unix:///run/s/x").unwrap();
        assert_eq!(bundle.recorded_socket().unwrap(), Path::new("/run/s/x"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
