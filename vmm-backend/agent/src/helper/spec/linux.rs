//! The `linux` object of a specification.

use std::path::PathBuf;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use runtime_api::{Error, Result};

use super::Object;
use crate::helper::devices::Device;

/// What is Linux about a container.
#[derive(Debug, Default)]
pub(in crate::helper) struct Linux<'a> {
    pub(in crate::helper) namespaces: Vec<Namespace>,
    pub(in crate::helper) uid_mappings: Vec<Mapping>,
    pub(in crate::helper) gid_mappings: Vec<Mapping>,
    pub(in crate::helper) cgroup: Option<&'a str>,
    pub(in crate::helper) resources: Option<Object<'a>>,
    pub(in crate::helper) devices: Vec<Device>,
    pub(in crate::helper) seccomp: Option<Object<'a>>,
    pub(in crate::helper) propagation: Option<MsFlags>,
    pub(in crate::helper) masked: Vec<String>,
    pub(in crate::helper) read_only: Vec<String>,
    pub(in crate::helper) sysctl: Vec<(String, String)>,
}

impl std::fmt::Debug for Object<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.fields()).finish()
    }
}

/// A namespace that the container does not share with the guest.
#[derive(Debug)]
pub(in crate::helper) struct Namespace {
    pub(in crate::helper) kind: CloneFlags,
    /// One that exists; `None` for a new one.
    pub(in crate::helper) path: Option<PathBuf>,
}

/// A line of `uid_map` or `gid_map` (user_namespaces(7)).
#[derive(Debug, PartialEq, Eq)]
pub(in crate::helper) struct Mapping {
    pub(in crate::helper) inside: u32,
    pub(in crate::helper) outside: u32,
    pub(in crate::helper) size: u32,
}

const UNSUPPORTED: &[&str] = &[
    "linux.intelRdt",
    "linux.mountLabel",
    "linux.personality",
    "linux.timeOffsets",
    "linux.netDevices",
    "linux.memoryPolicy",
];

impl<'a> Linux<'a> {
    pub(in crate::helper) fn parse(linux: Object<'a>) -> Result<Self> {
        linux.refuse(UNSUPPORTED)?;
        let mappings = |name: &str| -> Result<Vec<Mapping>> {
            linux.objects(name)?.into_iter().map(Mapping::parse).collect()
        };
        let strings = |name: &'static str| -> Result<Vec<(String, String)>> {
            let Some(object) = linux.object(name)? else { return Ok(Vec::new()) };
            let pair = |(key, value): (&str, &serde_json::Value)| match value.as_str() {
                Some(text) => Ok((key.to_owned(), text.to_owned())),
                None => Err(Error::invalid_argument(format!("{name} {key} is not a string"))),
            };
            object.fields().map(pair).collect()
        };
        Ok(Self {
            namespaces: linux
                .objects("linux.namespaces")?
                .into_iter()
                .map(Namespace::parse)
                .collect::<Result<_>>()?,
            uid_mappings: mappings("linux.uidMappings")?,
            gid_mappings: mappings("linux.gidMappings")?,
            cgroup: linux.text("linux.cgroupsPath")?.filter(|path| !path.is_empty()),
            resources: linux.object("linux.resources")?,
            devices: linux
                .objects("linux.devices")?
                .into_iter()
                .map(Device::parse)
                .collect::<Result<_>>()?,
            seccomp: linux.object("linux.seccomp")?,
            propagation: linux
                .text("linux.rootfsPropagation")?
                .map(propagation)
                .transpose()?
                .flatten(),
            masked: linux.texts("linux.maskedPaths")?,
            read_only: linux.texts("linux.readonlyPaths")?,
            sysctl: strings("linux.sysctl")?,
        })
    }

    /// The namespace of a kind, if it is not the guest's.
    pub(in crate::helper) fn namespace(&self, kind: CloneFlags) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.kind == kind)
    }
}

fn propagation(name: &str) -> Result<Option<MsFlags>> {
    Ok(Some(match name {
        "" => return Ok(None),
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => {
            let message = format!("linux.rootfsPropagation cannot be {name:?}");
            return Err(Error::invalid_argument(message));
        }
    }))
}

impl Namespace {
    fn parse(namespace: Object<'_>) -> Result<Self> {
        let kind = match namespace.required("linux.namespaces.type")? {
            "pid" => CloneFlags::CLONE_NEWPID,
            "network" => CloneFlags::CLONE_NEWNET,
            "mount" => CloneFlags::CLONE_NEWNS,
            "ipc" => CloneFlags::CLONE_NEWIPC,
            "uts" => CloneFlags::CLONE_NEWUTS,
            "user" => CloneFlags::CLONE_NEWUSER,
            "cgroup" => CloneFlags::CLONE_NEWCGROUP,
            "time" => return Err(Error::unimplemented("linux.namespaces.type \"time\"")),
            other => {
                let message = format!("linux.namespaces.type cannot be {other:?}");
                return Err(Error::invalid_argument(message));
            }
        };
        let path = namespace.text("linux.namespaces.path")?.filter(|path| !path.is_empty());
        Ok(Self { kind, path: path.map(PathBuf::from) })
    }
}

impl Mapping {
    fn parse(mapping: Object<'_>) -> Result<Self> {
        Ok(Self {
            inside: mapping.number("linux.uidMappings.containerID")?.unwrap_or(0),
            outside: mapping.number("linux.uidMappings.hostID")?.unwrap_or(0),
            size: mapping.number("linux.uidMappings.size")?.unwrap_or(0),
        })
    }
}
