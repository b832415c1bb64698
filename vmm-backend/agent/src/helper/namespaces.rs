//! The namespaces of a container.
//!
//! ```text
//!                      new pid, mount, uts and ipc namespaces?
//!   yes: in a cradle, which has them    ── complete ──►   init process
//!   no:  in a helper of the guest       ── enter ── fork ──► init process
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{
    ForkResult, Gid, Uid, getpid, pipe, setgroups, sethostname, setresgid, setresuid,
};
use runtime_api::{Error, Result, ResultExt};

use super::rootfs::propagate;
use super::spec::{Linux, Mapping, Spec};
use crate::sys::{self, SingleThread};

/// What a cradle has of its own.
const OF_A_CRADLE: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// Joined in this order, since the first gives the right to the others and the last one takes away
/// the paths.
const ORDER: [(CloneFlags, &str); 7] = [
    (CloneFlags::CLONE_NEWUSER, "user"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::CLONE_NEWNS, "mnt"),
];

/// Makes the namespaces of a cradle, whose pid namespace the next child is born into.
pub(super) fn prepare_cradle() -> Result<()> {
    unshare(OF_A_CRADLE).internal(|| "make the namespaces of a cradle")
}

/// What comes first in a new mount namespace: from the guest it sees later mounts, the share above
/// all, and shows none.
pub(super) fn settle() -> Result<()> {
    propagate(MsFlags::MS_SLAVE | MsFlags::MS_REC)
}

/// Whether a container can be made in a cradle.
pub(super) fn suit_a_cradle(linux: &Linux<'_>) -> bool {
    let made = |kind| linux.namespace(kind).is_some_and(|namespace| namespace.path.is_none());
    made(CloneFlags::CLONE_NEWPID)
        && made(CloneFlags::CLONE_NEWNS)
        && linux.namespace(CloneFlags::CLONE_NEWUSER).is_none()
        && linux.propagation.is_none_or(|flags| !flags.contains(MsFlags::MS_SHARED))
}

/// Finds what the kernel would refuse or, worse, do to the guest.
pub(super) fn check(spec: &Spec<'_>) -> Result<()> {
    let linux = &spec.linux;
    if linux.namespace(CloneFlags::CLONE_NEWNS).is_none() {
        let message = "linux.namespaces: a container without a mount namespace";
        return Err(Error::unimplemented(message));
    }
    let user = linux.namespace(CloneFlags::CLONE_NEWUSER);
    if user.is_none() && !(linux.uid_mappings.is_empty() && linux.gid_mappings.is_empty()) {
        return Err(Error::invalid_argument("linux.uidMappings: there is no user namespace"));
    }
    let shared = linux.namespace(CloneFlags::CLONE_NEWUTS).is_none();
    let other =
        |name: &str| nix::unistd::gethostname().is_ok_and(|current| current.as_os_str() != name);
    match spec.hostname.filter(|name| shared && other(name)) {
        Some(name) => Err(Error::invalid_argument(format!(
            "hostname {name:?}: there is no uts namespace of the container"
        ))),
        None => Ok(()),
    }
}

/// In a cradle: joins what is not to be new, and makes what a cradle does not have.
pub(super) fn complete(linux: &Linux<'_>) -> Result<()> {
    for (kind, name) in ORDER {
        match linux.namespace(kind) {
            Some(namespace) => {
                if let Some(path) = &namespace.path {
                    join(path, kind)?;
                } else if !OF_A_CRADLE.contains(kind) && kind != CloneFlags::CLONE_NEWCGROUP {
                    unshare(kind).internal(|| format!("make a {name} namespace"))?;
                }
            }
            None if OF_A_CRADLE.contains(kind) => {
                // The guest's own.
                join(Path::new(&format!("/proc/1/ns/{name}")), kind)?;
            }
            None => {}
        }
    }
    Ok(())
}

/// In a helper of the guest: joins and makes all but the cgroup namespace, which comes after the
/// cgroup. The next child is born into the pid namespace.
pub(super) fn enter(linux: &Linux<'_>, alone: &SingleThread) -> Result<()> {
    let mut new = CloneFlags::empty();
    for (kind, _) in ORDER {
        let Some(namespace) = linux.namespace(kind) else { continue };
        match &namespace.path {
            Some(path) => join(path, kind)?,
            None if kind == CloneFlags::CLONE_NEWUSER => make_user_namespace(linux, alone)?,
            None => new |= kind,
        }
        if kind == CloneFlags::CLONE_NEWUSER {
            become_root().internal(|| "become root of the user namespace")?;
        }
    }
    new.remove(CloneFlags::CLONE_NEWCGROUP);
    unshare(new).internal(|| format!("make the namespaces {new:?}"))?;
    match new.contains(CloneFlags::CLONE_NEWNS) && linux.propagation.is_none() {
        true => settle(),
        false => Ok(()),
    }
}

/// After the process has joined its cgroup, which becomes the root of what it sees.
pub(super) fn enter_cgroup_namespace(linux: &Linux<'_>) -> Result<()> {
    match linux.namespace(CloneFlags::CLONE_NEWCGROUP) {
        Some(namespace) if namespace.path.is_none() => {
            unshare(CloneFlags::CLONE_NEWCGROUP).internal(|| "make a cgroup namespace")
        }
        _ => Ok(()),
    }
}

/// Gives names and an interface to the new namespaces.
pub(super) fn furnish(spec: &Spec<'_>) -> Result<()> {
    let uts = spec.linux.namespace(CloneFlags::CLONE_NEWUTS).is_some();
    if let Some(name) = spec.hostname.filter(|_| uts) {
        sethostname(name).internal(|| format!("set the host name {name:?}"))?;
    }
    if let Some(name) = spec.domainname.filter(|_| uts) {
        sys::set_domain_name(name).internal(|| format!("set the domain name {name:?}"))?;
    }
    let network = spec.linux.namespace(CloneFlags::CLONE_NEWNET);
    if network.is_some_and(|namespace| namespace.path.is_none()) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let inet = socket(AddressFamily::Inet, SockType::Datagram, flags, None)
            .internal(|| "open a socket for the loopback interface")?;
        sys::bring_up_loopback(&inet).internal(|| "bring up the loopback interface")?;
    }
    Ok(())
}

/// Sets kernel parameters, through the guest's own /proc, as seen from the namespaces of this process.
pub(super) fn set_kernel_parameters(linux: &Linux<'_>) -> Result<()> {
    for (name, value) in &linux.sysctl {
        if name.split('.').any(|part| part.is_empty() || part.contains('/')) {
            return Err(Error::invalid_argument(format!("linux.sysctl cannot be {name:?}")));
        }
        let kinds = namespaced(name);
        if kinds.is_none_or(|kind| linux.namespace(kind).is_none()) {
            let message = format!("linux.sysctl {name}: it is not the container's alone");
            return Err(Error::invalid_argument(message));
        }
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).internal(|| format!("write {value:?} to {}", path.display()))?;
    }
    Ok(())
}

/// The namespace that a kernel parameter belongs to.
fn namespaced(name: &str) -> Option<CloneFlags> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match name {
        _ if OF_IPC.contains(&name) || name.starts_with("fs.mqueue.") => {
            Some(CloneFlags::CLONE_NEWIPC)
        }
        "kernel.domainname" | "kernel.hostname" => Some(CloneFlags::CLONE_NEWUTS),
        // The network is the pod's, like everything in this guest: what every container has.
        _ if name.starts_with("net.") => Some(CloneFlags::CLONE_NEWNS),
        _ => None,
    }
}

fn join(path: &Path, kind: CloneFlags) -> Result<()> {
    let namespace = File::open(path).map_err(|error| {
        let message = format!("linux.namespaces.path {}", path.display());
        Error::invalid_argument(message).with_source(error)
    })?;
    setns(namespace, kind).internal(|| format!("join the namespace {}", path.display()))
}

/// Makes a user namespace whose ids a child that stays outside maps.
fn make_user_namespace(linux: &Linux<'_>, alone: &SingleThread) -> Result<()> {
    let describe = || "make a user namespace";
    let (told, tell) = pipe().internal(describe)?;
    let (answered, answer) = pipe().internal(describe)?;
    let pid = getpid();
    if let ForkResult::Child = alone.fork().internal(describe)? {
        drop((tell, answered));
        let map = || -> std::io::Result<()> {
            File::from(told).read_exact(&mut [0])?;
            for (file, mappings) in
                [("uid_map", &linux.uid_mappings), ("gid_map", &linux.gid_mappings)]
            {
                fs::write(format!("/proc/{pid}/{file}"), map_lines(mappings))?;
            }
            File::from(answer).write_all(b"m")
        };
        let failed = map().inspect_err(|error| log::error!("map the ids of a container: {error}"));
        std::process::exit(failed.is_err().into());
    }
    drop((told, answer));
    unshare(CloneFlags::CLONE_NEWUSER).internal(describe)?;
    File::from(tell).write_all(b"m").internal(describe)?;
    File::from(answered).read_exact(&mut [0]).map_err(|error| {
        Error::invalid_argument("linux.uidMappings or linux.gidMappings").with_source(error)
    })
}

fn map_lines(mappings: &[Mapping]) -> String {
    mappings
        .iter()
        .map(|Mapping { inside, outside, size }| format!("{inside} {outside} {size}\n"))
        .collect()
}

fn become_root() -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

#[cfg(test)]
mod tests {
    use runtime_api::ErrorKind;
    use serde_json::{Value, json};

    use super::*;

    fn checked(change: impl FnOnce(&mut Value)) -> (bool, Result<()>) {
        let kinds = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let mut spec = json!({
            "root": {"path": "r"}, "process": {"args": ["x"], "cwd": "/"},
            "linux": {"namespaces": kinds}
        });
        change(&mut spec);
        let spec = Spec::parse(&spec).unwrap();
        (suit_a_cradle(&spec.linux), check(&spec))
    }

    #[test]
    fn a_cradle_suits_those_with_namespaces_like_its_own() {
        assert!(checked(|_| {}).0);
        let without = |kind: &'static str| {
            checked(move |spec| {
                let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
                list.retain(|namespace| namespace["type"] != kind);
            })
        };
        assert!(without("ipc").0 && !without("pid").0);
        assert!(!checked(|spec| spec["linux"]["namespaces"][0]["path"] = json!("/p")).0);
        assert!(!checked(|spec| spec["linux"]["rootfsPropagation"] = json!("rshared")).0);
        let missing = without("mount").1.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Unimplemented);
    }

    #[test]
    fn what_would_change_the_guest_is_refused() {
        let host = checked(|spec| {
            spec["hostname"] = json!("not-this-machine");
            spec["linux"]["namespaces"].as_array_mut().unwrap().remove(2);
        });
        assert_eq!(host.1.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(namespaced("kernel.shmmax"), Some(CloneFlags::CLONE_NEWIPC));
        assert_eq!(namespaced("vm.swappiness"), None);
    }

    #[test]
    fn ids_are_mapped_line_by_line() {
        let mapping = |inside, outside, size| Mapping { inside, outside, size };
        assert_eq!(map_lines(&[mapping(0, 1000, 1), mapping(1, 2000, 9)]), "0 1000 1\n1 2000 9\n");
    }
}
