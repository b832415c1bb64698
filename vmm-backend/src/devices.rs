//! The devices of a specification. Their numbers are the host's: in the guest they would name nothing,
//! or something else. Only those that are the same in every kernel are passed on.

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};
use runtime_api::{ContainerId, Error, Result};

/// null, zero, full, random, urandom, tty, ptmx (Documentation/admin-guide/devices.txt).
const VIRTUAL: [(i64, i64); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

/// Leaves the devices of the host out for a container that is allowed all of them: it is privileged,
/// and all means those of its VM.
///
/// # Errors
/// `InvalidArgument` naming a device of the host that another container asks for.
pub(crate) fn keep_virtual(linux: &mut Linux, container: &ContainerId) -> Result<()> {
    let privileged = allows_all(linux);
    let Some(devices) = linux.devices() else { return Ok(()) };
    let (kept, left): (Vec<_>, Vec<_>) = devices.iter().cloned().partition(is_virtual);
    if let Some(device) = left.iter().find(|_| !privileged) {
        return Err(Error::invalid_argument(format!(
            "device {} ({}:{}) of container {container} is the host's, which a VM does not have",
            device.path().display(),
            device.major(),
            device.minor()
        )));
    }
    linux.set_devices(Some(kept));
    Ok(())
}

fn is_virtual(device: &LinuxDevice) -> bool {
    match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => {
            VIRTUAL.contains(&(device.major(), device.minor()))
        }
        LinuxDeviceType::P => true,
        LinuxDeviceType::B | LinuxDeviceType::A => false,
    }
}

/// Whether a rule allows what no number restricts.
fn allows_all(linux: &Linux) -> bool {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
    rules.into_iter().flatten().any(|rule| {
        let any_kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        rule.allow() && any_kind && rule.major().is_none() && rule.minor().is_none()
    })
}

#[cfg(test)]
mod tests {
    use runtime_api::ErrorKind;
    use serde_json::{Value, json};

    use super::*;

    fn kept(rule: &Value, devices: &Value) -> Result<Vec<String>> {
        let linux = json!({"resources": {"devices": [rule]}, "devices": devices});
        let mut linux: Linux = serde_json::from_value(linux).unwrap();
        keep_virtual(&mut linux, &ContainerId::parse("c").unwrap())?;
        let devices = linux.devices().clone().unwrap();
        Ok(devices.iter().map(|device| device.path().display().to_string()).collect())
    }

    #[test]
    fn a_device_of_the_host_is_refused_by_name_unless_all_are_allowed() {
        let devices = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/vda", "type": "b", "major": 254, "minor": 0}
        ]);
        let none = json!({"allow": false, "access": "rwm"});
        let error = kept(&none, &devices).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("/dev/vda"), "{error}");
        let all = json!({"allow": true, "access": "rwm"});
        assert_eq!(kept(&all, &devices).unwrap(), ["/dev/null"]);
        let one = json!({"allow": true, "type": "b", "major": 254, "minor": 0, "access": "rwm"});
        assert!(kept(&one, &devices).is_err());
        assert_eq!(kept(&none, &json!([devices[0]])).unwrap(), ["/dev/null"]);
    }
}
