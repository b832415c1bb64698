//! The resources of an Update. Daemons send all that a container has, changed and unchanged alike; what
//! names something of the host was left out at the creation (`bundle.rs`) and cannot change.

use std::path::Path;

use runtime_api::{Error, ErrorKind, Json, Result, ResultExt};
use serde_json::Value;

use crate::bundle::Bundle;

/// What a guest has no devices, controllers or numbers of its own for.
const FIXED: [&[&str]; 10] = [
    &["devices"],
    &["network"],
    &["rdma"],
    &["blockIO"],
    &["hugepageLimits"],
    &["cpu", "cpus"],
    &["cpu", "mems"],
    &["cpu", "realtimeRuntime"],
    &["cpu", "realtimePeriod"],
    &["memory", "checkBeforeUpdate"],
];

/// Takes out of `resources` what a guest is not told.
///
/// # Errors
/// `InvalidArgument` naming a field that would have to change, or for what is no JSON object.
pub(crate) fn translate(resources: &Json, bundle: &Path) -> Result<Json> {
    let mut wanted: Value = serde_json::from_slice(&resources.0)
        .kind(ErrorKind::InvalidArgument, || "read linux.resources")?;
    if !wanted.is_object() {
        return Err(Error::invalid_argument("linux.resources is not an object"));
    }
    // Nothing else needs the bundle, which is the daemon's and may have gone.
    let mut created = None;
    for path in FIXED {
        let Some(value) = take(&mut wanted, path).filter(|value| !is_empty(value)) else {
            continue;
        };
        let created = created.get_or_insert_with(|| {
            Bundle::read(bundle).ok().map_or(Value::Null, |bundle| bundle.resources())
        });
        if take(&mut created.clone(), path) != Some(value) {
            let field = path.join(".");
            let message = format!("linux.resources.{field} of a container in a VM cannot change");
            return Err(Error::invalid_argument(message));
        }
    }
    Ok(Json(wanted.to_string().into_bytes()))
}

fn take(value: &mut Value, path: &[&str]) -> Option<Value> {
    match path {
        [] => None,
        [name] => value.as_object_mut()?.remove(*name),
        [name, rest @ ..] => take(value.get_mut(*name)?, rest),
    }
}

/// Whether it says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(resources: &Value) -> Result<Value> {
        let directory = tempfile::tempdir().unwrap();
        let created = json!({
            "cpu": {"cpus": "0-1", "shares": 2},
            "devices": [{"allow": false, "access": "rwm"}],
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        });
        let spec = json!({"ociVersion": "1.0.2", "linux": {"resources": created}});
        std::fs::write(directory.path().join("config.json"), spec.to_string()).unwrap();
        let translated = translate(&Json(resources.to_string().into_bytes()), directory.path())?;
        Ok(serde_json::from_slice(&translated.0).unwrap())
    }

    #[test]
    fn what_stays_as_it_was_created_is_left_out() {
        let all = json!({
            "memory": {"limit": 5},
            "cpu": {"cpus": "0-1", "mems": "", "shares": 9},
            "devices": [{"allow": false, "access": "rwm"}],
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "blockIO": {"weight": 0},
        });
        assert_eq!(update(&all).unwrap(), json!({"memory": {"limit": 5}, "cpu": {"shares": 9}}));
    }

    #[test]
    fn what_cannot_change_is_refused_by_name() {
        for (resources, field) in [
            (json!({"cpu": {"cpus": "0"}}), "linux.resources.cpu.cpus"),
            (json!({"cpu": {"mems": "0"}}), "linux.resources.cpu.mems"),
            (json!({"cpu": {"realtimePeriod": 1}}), "linux.resources.cpu.realtimePeriod"),
            (json!({"blockIO": {"weight": 10}}), "linux.resources.blockIO"),
            (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}), "hugepageLimits"),
            (json!({"devices": [{"allow": true, "access": "rwm"}]}), "linux.resources.devices"),
        ] {
            let error = update(&resources).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(field), "{error}");
        }
        assert_eq!(update(&json!([])).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
