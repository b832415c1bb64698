//! Other limits for a running container.

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use runtime_api::{Error, ErrorKind, Result, ResultExt};

use super::protocol::Update;

pub(super) fn update(request: &Update) -> Result<()> {
    let resources = serde_json::from_str(&request.resources)
        .kind(ErrorKind::InvalidArgument, || "read the resources")?;
    let cgroup = CgroupConfig {
        cgroup_path: request.cgroup.clone(),
        systemd_cgroup: false,
        container_name: String::new(),
    };
    let limits = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    // The kernel's refusal of a value is not told apart from its refusal of the operation.
    create_cgroup_manager(cgroup)
        .map_err(|error| Error::internal("open the cgroup").with_source(error.to_string()))?
        .apply(&limits)
        .map_err(|error| Error::invalid_argument("set the limits").with_source(error.to_string()))
}
