//! Other limits for a running container.

use runtime_api::{Error, ErrorKind, Result, ResultExt};
use serde_json::Value;

use super::limits;
use super::protocol::Update;
use super::spec::Object;
use crate::cgroup::cgroup_directory;

pub(super) fn update(request: &Update) -> Result<()> {
    let resources: Value = serde_json::from_str(&request.resources)
        .kind(ErrorKind::InvalidArgument, || "read the resources")?;
    let resources = Object::of(&resources, "linux.resources")?;
    limits::apply(resources, &cgroup_directory(&request.cgroup)).map_err(|error| {
        // What cannot be had at all is refused at a creation, what cannot change is a bad argument.
        let kind = match error.kind() {
            ErrorKind::Unimplemented => ErrorKind::InvalidArgument,
            kind => kind,
        };
        Error::new(kind, "update").with_source(error)
    })
}
