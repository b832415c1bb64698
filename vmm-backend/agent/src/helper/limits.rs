//! The limits of a cgroup, from the terms of the specification, which are those of version 1, to the
//! files of version 2 (Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::path::Path;

use runtime_api::{Error, ErrorKind, Result};

use super::spec::Object;

/// A file of the cgroup and what is written to it.
type Setting = (String, String);

/// What guests have no devices or controllers for. The rules for devices are passed over: a guest
/// has no device but its own.
const UNSUPPORTED: &[&str] = &[
    "linux.resources.blockIO",
    "linux.resources.hugepageLimits",
    "linux.resources.network",
    "linux.resources.rdma",
];

/// Sets what `resources` names in the cgroup at `directory`.
///
/// # Errors
/// `InvalidArgument` for what the kernel refuses.
pub(super) fn apply(resources: Object<'_>, directory: &Path) -> Result<()> {
    for (file, value) in settings(resources)? {
        let path = directory.join(&file);
        fs::write(&path, &value).map_err(|error| {
            let message = format!("write {value:?} to {}", path.display());
            Error::new(ErrorKind::InvalidArgument, message).with_source(error)
        })?;
    }
    Ok(())
}

fn settings(resources: Object<'_>) -> Result<Vec<Setting>> {
    resources.refuse(UNSUPPORTED)?;
    let mut settings = Vec::new();
    if let Some(memory) = resources.object("linux.resources.memory")? {
        self::memory(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.object("linux.resources.cpu")? {
        self::cpu(cpu, &mut settings)?;
    }
    if let Some(pids) = resources.object("linux.resources.pids")? {
        let limit = pids.number::<i64>("linux.resources.pids.limit")?.unwrap_or(0);
        // Zero is how the reference runtime spells "not set".
        if limit != 0 {
            settings.push(("pids.max".into(), at_most(limit)));
        }
    }
    if let Some(unified) = resources.object("linux.resources.unified")? {
        for (file, value) in unified.fields() {
            let (Some(value), false) = (value.as_str(), file.contains('/')) else {
                let message = format!("linux.resources.unified {file:?}: not a file and its text");
                return Err(Error::invalid_argument(message));
            };
            settings.push((file.into(), value.into()));
        }
    }
    Ok(settings)
}

fn memory(memory: Object<'_>, settings: &mut Vec<Setting>) -> Result<()> {
    memory.refuse(&["linux.resources.memory.checkBeforeUpdate"])?;
    let limit: Option<i64> = memory.number("linux.resources.memory.limit")?;
    let swap: Option<i64> = memory.number("linux.resources.memory.swap")?;
    let low: Option<i64> = memory.number("linux.resources.memory.reservation")?;
    if let Some(swap) = swap_alone(limit, swap)? {
        settings.push(("memory.swap.max".into(), swap));
    }
    if let Some(limit) = limit.filter(|limit| *limit != 0) {
        settings.push(("memory.max".into(), at_most(limit)));
    }
    if let Some(low) = low.filter(|low| *low != 0) {
        settings.push(("memory.low".into(), at_most(low)));
    }
    Ok(())
}

/// The specification's number is for memory and swap together.
fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<String>> {
    let (limit, both) = (limit.unwrap_or(0), both.unwrap_or(0));
    match both {
        0 if limit == -1 => Ok(Some("max".into())),
        0 => Ok(None),
        -1 => Ok(Some("max".into())),
        _ if limit > 0 && both >= limit => Ok(Some((both - limit).to_string())),
        _ => Err(Error::invalid_argument(format!(
            "linux.resources.memory.swap {both} does not fit the limit of {limit}"
        ))),
    }
}

fn cpu(cpu: Object<'_>, settings: &mut Vec<Setting>) -> Result<()> {
    cpu.refuse(&["linux.resources.cpu.realtimeRuntime", "linux.resources.cpu.realtimePeriod"])?;
    if let Some(idle) = cpu.number::<i64>("linux.resources.cpu.idle")? {
        settings.push(("cpu.idle".into(), idle.to_string()));
    }
    if let Some(shares) = cpu.number::<u64>("linux.resources.cpu.shares")?.filter(|n| *n != 0) {
        settings.push(("cpu.weight".into(), weight(shares).to_string()));
    }
    let quota = cpu.number::<i64>("linux.resources.cpu.quota")?.filter(|quota| *quota != 0);
    let period = cpu.number::<u64>("linux.resources.cpu.period")?.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = at_most(quota.unwrap_or(-1));
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        settings.push(("cpu.max".into(), value));
    }
    if let Some(burst) = cpu.number::<u64>("linux.resources.cpu.burst")? {
        settings.push(("cpu.max.burst".into(), burst.to_string()));
    }
    for (name, file) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
        let set = cpu.text(&format!("linux.resources.cpu.{name}"))?;
        if let Some(set) = set.filter(|set| !set.is_empty()) {
            settings.push((file.into(), set.into()));
        }
    }
    Ok(())
}

/// Shares, from 2 to 262144, as a weight, from 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A limit, of which every negative one is none.
fn at_most(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(value: &Value) -> String {
        let settings = settings(Object::of(value, "linux.resources").unwrap()).unwrap();
        let text: Vec<String> =
            settings.iter().map(|(file, value)| format!("{file}={value}")).collect();
        text.join(" ")
    }

    #[test]
    fn limits_are_translated_as_the_reference_runtime_does() {
        for (resources, expected) in [
            (json!({"memory": {"limit": 100, "swap": 150}}), "memory.swap.max=50 memory.max=100"),
            (json!({"memory": {"limit": -1}}), "memory.swap.max=max memory.max=max"),
            (json!({"memory": {"reservation": 7}}), "memory.low=7"),
            (json!({"cpu": {"shares": 1024}}), "cpu.weight=39"),
            (json!({"cpu": {"shares": 2}}), "cpu.weight=1"),
            (json!({"cpu": {"quota": 5000, "period": 10000}}), "cpu.max=5000 10000"),
            (json!({"cpu": {"quota": -1}}), "cpu.max=max"),
            (json!({"cpu": {"period": 10000}}), "cpu.max=max 10000"),
            (json!({"pids": {"limit": -1}}), "pids.max=max"),
            (json!({"pids": {"limit": 0}}), ""),
            (json!({"unified": {"memory.high": "9"}}), "memory.high=9"),
            (json!({"devices": [{"allow": false}]}), ""),
        ] {
            assert_eq!(set(&resources), expected, "{resources}");
        }
    }

    #[test]
    fn what_a_guest_cannot_limit_is_refused() {
        for (resources, kind) in [
            (json!({"blockIO": {"weight": 10}}), ErrorKind::Unimplemented),
            (json!({"unified": {"../x": "1"}}), ErrorKind::InvalidArgument),
            (json!({"memory": {"limit": 100, "swap": 50}}), ErrorKind::InvalidArgument),
        ] {
            let error = settings(Object::of(&resources, "linux.resources").unwrap()).unwrap_err();
            assert_eq!(error.kind(), kind, "{resources}");
        }
    }
}
