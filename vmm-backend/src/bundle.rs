//! An OCI bundle as a daemon gives it, and its translation for the guest.
//!
//! What a path of the host means cannot mean the same in the guest. So the root filesystem and every
//! bind mount go below the shared directory under fixed names, and what names something else of the
//! host (namespaces, cgroups, security labels, CPU and device numbers) is left out.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Process, RootBuilder, Spec};
use runtime_api::{ContainerId, Error, ErrorKind, Grouping, Result, ResultExt};

use crate::devices::keep_virtual;
use crate::hooks::Hooks;
use crate::vmm::NetworkNamespace;

/// The largest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// A bundle: its directory and its spec.
pub(crate) struct Bundle {
    directory: PathBuf,
    spec: Spec,
}

/// The translation of a bundle.
#[derive(Debug)]
pub(crate) struct Translation {
    /// The guest's `config.json`.
    pub(crate) config: Vec<u8>,
    /// The host's side of every bind mount; the index is the name below `volumes/`.
    pub(crate) volumes: Vec<PathBuf>,
    /// Where `root.path` is on the host; used when the request brings no root filesystem.
    pub(crate) root: PathBuf,
}

impl Bundle {
    /// Reads `config.json` of the bundle.
    ///
    /// # Errors
    /// `NotFound` when there is none; `InvalidArgument` when it is not an OCI spec.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let size = fs::metadata(&path).map(|data| data.len());
        let text = match size {
            Ok(size) if size > MAX_CONFIG => {
                let message = format!("{} has {size} bytes, over {MAX_CONFIG}", path.display());
                return Err(Error::invalid_argument(message));
            }
            _ => fs::read(&path)
                .kind(ErrorKind::NotFound, || format!("read bundle {}", path.display()))?,
        };
        let spec = serde_json::from_slice(&text).kind(ErrorKind::InvalidArgument, || {
            format!("{} is no OCI runtime spec", path.display())
        })?;
        Ok(Self { directory: directory.to_owned(), spec })
    }

    /// Which sandbox `container` belongs to.
    ///
    /// # Errors
    /// `InvalidArgument` when an annotation names what is no id.
    pub(crate) fn grouping(&self, container: &ContainerId) -> Result<Grouping> {
        let annotations = self.spec.annotations().as_ref();
        Grouping::of(container, |name| annotations?.get(name).map(String::as_str))
    }

    /// The host name that the spec asks for; empty for none.
    pub(crate) fn hostname(&self) -> &str {
        self.spec.hostname().as_deref().unwrap_or_default()
    }

    /// The control group that the daemon has chosen for the container.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        self.spec.linux().as_ref()?.cgroups_path().clone()
    }

    /// The resources that the spec gives the container.
    pub(crate) fn resources(&self) -> serde_json::Value {
        let resources = self.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        serde_json::json!(resources)
    }

    /// The programs that the spec wants to be run.
    pub(crate) fn hooks(&self) -> Hooks {
        Hooks::of(&self.spec)
    }

    /// Where the sandbox that is made for this container is on the network.
    pub(crate) fn network(&self) -> NetworkNamespace {
        let namespaces = self.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        namespaces
            .and_then(|all| all.iter().find(|space| space.typ() == LinuxNamespaceType::Network))
            .and_then(|space| space.path().clone())
            .map_or(NetworkNamespace::New, NetworkNamespace::Existing)
    }

    /// Translates the spec for a guest in which `container`'s directory is `directory`.
    ///
    /// # Errors
    /// `NotFound` for a mount source that is missing; `FailedPrecondition` for the host's network;
    /// `InvalidArgument` and `Unimplemented` for what cannot be had in a VM.
    pub(crate) fn translate(
        &self,
        container: &ContainerId,
        directory: &Path,
    ) -> Result<Translation> {
        let mut spec = self.spec.clone();
        self.hooks().check(container)?;
        spec.set_hooks(None);
        let root = self.root(container)?;
        let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let guest_root = RootBuilder::default().path("rootfs").readonly(readonly).build();
        spec.set_root(Some(guest_root.internal(|| "build the root of a spec")?));
        let mounts = spec.mounts_mut().as_deref_mut().unwrap_or_default();
        let volumes = self.volumes(mounts, directory)?;
        name_sources(mounts);
        if let Some(linux) = spec.linux_mut() {
            translate_linux(linux, container)?;
        }
        if let Some(process) = spec.process_mut() {
            translate_process(process);
        }
        let config = serde_json::to_vec(&spec).internal(|| "encode a spec")?;
        Ok(Translation { config, volumes, root })
    }

    fn root(&self, container: &ContainerId) -> Result<PathBuf> {
        match self.spec.root() {
            Some(root) => Ok(self.directory.join(root.path())),
            None => Err(Error::invalid_argument(format!("container {container} has no root"))),
        }
    }

    /// Points every bind mount to its place in the guest and tells what belongs there.
    fn volumes(&self, mounts: &mut [Mount], directory: &Path) -> Result<Vec<PathBuf>> {
        let mut volumes = Vec::new();
        for mount in mounts.iter_mut().filter(|mount| is_bind(mount)) {
            let destination = mount.destination().display();
            let Some(source) = mount.source().as_ref().map(|path| self.directory.join(path)) else {
                return Err(Error::invalid_argument(format!(
                    "mount on {destination} has no source"
                )));
            };
            let kind = fs::metadata(&source).map_err(|error| {
                let line = format!("source {} of the mount on {destination}", source.display());
                Error::not_found(line).with_source(error)
            })?;
            if kind.file_type().is_block_device() || kind.file_type().is_char_device() {
                return Err(Error::invalid_argument(format!(
                    "source {} of the mount on {destination} is a device of the host",
                    source.display()
                )));
            }
            let place = directory.join("volumes").join(volumes.len().to_string());
            mount.set_source(Some(place));
            volumes.push(source);
        }
        Ok(volumes)
    }
}

fn is_bind(mount: &Mount) -> bool {
    let bind = |option: &String| option == "bind" || option == "rbind";
    mount.typ().as_deref() == Some("bind")
        || mount.options().as_ref().is_some_and(|options| options.iter().any(bind))
}

/// A filesystem without a device may come without a source, which the guest's side wants to have.
fn name_sources(mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|mount| mount.source().is_none()) {
        let name = mount.typ().clone().unwrap_or_default();
        mount.set_source(Some(name.into()));
    }
}

fn translate_linux(linux: &mut Linux, container: &ContainerId) -> Result<()> {
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    if !namespaces.iter().any(|space| space.typ() == LinuxNamespaceType::Network) {
        return Err(Error::failed_precondition(format!(
            "container {container} asks for the host's network, which a VM does not have"
        )));
    }
    // The network of the sandbox is the guest's own. A namespace with a path is one that the pod's
    // containers share, and what they share is the guest.
    namespaces.retain(|space| {
        let shared = space.path().is_some() && space.typ() != LinuxNamespaceType::Pid;
        space.typ() != LinuxNamespaceType::Network && !shared
    });
    for space in &mut namespaces {
        space.set_path(None);
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_cgroups_path(Some(Path::new(guest_api::CGROUP_PARENT).join(container)));
    keep_virtual(linux, container)?;
    linux.set_mount_label(None).set_intel_rdt(None).set_net_devices(None);
    if let Some(resources) = linux.resources_mut() {
        resources.set_devices(None).set_network(None).set_rdma(None).set_block_io(None);
        resources.set_hugepage_limits(None);
        if let Some(cpu) = resources.cpu_mut() {
            cpu.set_cpus(None).set_mems(None);
        }
    }
    Ok(())
}

/// Security modules are the host's; the guest's kernel has no profile or label of that name.
fn translate_process(process: &mut Process) {
    process.set_apparmor_profile(None).set_selinux_label(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn translate(change: impl FnOnce(&mut Value)) -> Result<(Translation, Value)> {
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                        "apparmorProfile": "cri-containerd.apparmor.d"},
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "linux": {"cgroupsPath": "/default/c1", "namespaces": [
                {"type": "network", "path": "/proc/1/ns/net"}, {"type": "pid"},
                {"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "mount"}]}
        });
        change(&mut spec);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), spec.to_string()).unwrap();
        let bundle = Bundle::read(directory.path())?;
        let id = ContainerId::parse("c1").unwrap();
        assert_eq!(bundle.grouping(&id)?.sandbox.as_str(), "pod");
        let translation = bundle.translate(&id, Path::new("/share/c1"))?;
        let config = serde_json::from_slice(&translation.config).unwrap();
        Ok((translation, config))
    }

    #[test]
    fn what_names_something_of_the_host_is_left_out() {
        let (translation, config) = translate(|_| {}).unwrap();
        assert!(translation.root.ends_with("rootfs"));
        assert_eq!(config["root"], json!({"path": "rootfs", "readonly": true}));
        assert_eq!(config["linux"]["namespaces"], json!([{"type": "pid"}, {"type": "mount"}]));
        assert_eq!(config["linux"]["cgroupsPath"], "/vmrt/c1");
        assert_eq!(config["process"].get("apparmorProfile"), None);
    }

    #[test]
    fn bind_mounts_go_below_the_share() {
        let (translation, config) = translate(|spec| {
            let bind = json!({"destination": "/etc/hosts", "type": "bind", "source": "/etc/hostname",
                              "options": ["rbind", "ro"]});
            spec["mounts"].as_array_mut().unwrap().push(bind);
            let tmpfs = json!({"destination": "/scratch", "type": "tmpfs"});
            spec["mounts"].as_array_mut().unwrap().push(tmpfs);
        })
        .unwrap();
        assert_eq!(translation.volumes, [Path::new("/etc/hostname")]);
        assert_eq!(config["mounts"][1]["source"], "/share/c1/volumes/0");
        assert_eq!(config["mounts"][1]["options"], json!(["rbind", "ro"]));
        assert_eq!(config["mounts"][2]["source"], "tmpfs");
    }

    #[test]
    fn what_a_vm_cannot_have_is_refused_by_name() {
        let bind = |source: &'static str| {
            translate(move |spec| {
                spec["mounts"][0] =
                    json!({"destination": "/x", "type": "bind", "source": source, "options": []});
            })
            .unwrap_err()
        };
        let missing = bind("/no/such/source");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("/no/such/source"));
        assert_eq!(bind("/dev/null").kind(), ErrorKind::InvalidArgument);
        let host_network =
            translate(|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}])).unwrap_err();
        assert_eq!(host_network.kind(), ErrorKind::FailedPrecondition);
        for name in ["createContainer", "startContainer"] {
            let hooks = translate(|spec| spec["hooks"] = json!({name: [{"path": "/bin/x"}]}));
            let error = hooks.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unimplemented);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(
            Bundle::read(Path::new("/no/bundle")).err().unwrap().kind(),
            ErrorKind::NotFound
        );
    }
}
