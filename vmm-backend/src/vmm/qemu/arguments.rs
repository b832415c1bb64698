//! From a [`VmSpec`] to QEMU's command line: a pure function, so that the whole device set can be
//! read, and tested, in one place.
//!
//! The set is the same for every sandbox and fixed up front: only paths, sizes and the accelerator
//! differ. A device that is missing here cannot be part of a saved template later.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::vmm::{Accelerator, VmSpec, VmmError};

/// Device id, and in QMP events the name, of the agent's port.
pub(super) const AGENT_PORT: &str = "agent";

/// Root ports that stand by for hot-plugged disks and NICs. ACPI hot-plug stays on (the default of
/// q35): native PCIe hot-unplug takes seconds.
const SPARE_PORTS: u32 = 4;

/// `sun_path` holds 108 bytes with the terminating zero.
const SOCKET_PATH_LIMIT: usize = 107;

/// The sockets of one machine, in its state directory.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    pub(super) qmp: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) console: PathBuf,
}

impl Sockets {
    pub(super) fn new(directory: &Path) -> Result<Self, VmmError> {
        let sockets = Self {
            qmp: directory.join("qmp.sock"),
            agent: directory.join("agent.sock"),
            console: directory.join("console.sock"),
        };
        for path in sockets.all() {
            let length = path.as_os_str().len();
            if length > SOCKET_PATH_LIMIT {
                let (path, limit) = (path.to_owned(), SOCKET_PATH_LIMIT);
                return Err(VmmError::SocketPathTooLong { path, length, limit });
            }
        }
        Ok(sockets)
    }

    /// Unlinks them; those that are not there are no error.
    pub(super) fn remove(&self) {
        for path in self.all() {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// The longest path comes first.
    fn all(&self) -> [&Path; 3] {
        [&self.console, &self.agent, &self.qmp]
    }
}

/// How a machine begins, which is all that a template's machine and its clones differ in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    /// It boots, and keeps its memory to itself.
    Boot,
    /// It boots, and its memory is a file that it writes to.
    BootTemplate {
        /// The file.
        memory: &'a Path,
    },
    /// It waits for the state of a template, and its memory is the template's until it writes to it.
    Clone {
        /// The template's memory.
        memory: &'a Path,
    },
}

/// The arguments after the program's name. QMP is served on file descriptor 0, which has to be a
/// listening socket; the other sockets are made by QEMU itself.
pub(super) fn arguments(
    spec: &VmSpec,
    start: Start<'_>,
    sockets: &Sockets,
    tsc_khz: Option<u64>,
) -> Vec<OsString> {
    let mut line = Arguments(Vec::with_capacity(64));
    line.machine(spec);
    line.memory(spec, start);
    match start {
        Start::Boot | Start::BootTemplate { .. } => line.guest(spec, tsc_khz),
        // The kernel is in the memory already, and the state comes when QMP says from where.
        Start::Clone { .. } => line.option("-incoming", "defer"),
    }
    line.control(sockets);
    line.devices(spec);
    line.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_owned());
    }

    fn machine(&mut self, spec: &VmSpec) {
        for flag in ["-no-user-config", "-nodefaults"] {
            self.0.push(flag.into());
        }
        self.option("-display", "none");
        // Neither system management mode nor legacy buses: each of them costs boot time and attack
        // surface.
        self.option(
            "-machine",
            "q35,smm=off,sata=off,smbus=off,usb=off,hpet=off,memory-backend=memory",
        );
        let (accelerator, cpu) = match spec.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // A kernel that is told that string instructions are fast copies byte by byte with them,
            // and translated code takes as long for a byte as for eight.
            Accelerator::Tcg => ("tcg,thread=multi", "max,erms=off,fsrm=off"),
        };
        self.option("-accel", accelerator);
        self.option("-cpu", cpu);
        self.option("-smp", spec.vcpus.to_string());
        self.option("-m", format!("{}M", spec.memory.0));
        // 9P passthrough needs chown, which no class below forbids; nothing here ever starts a
        // program.
        self.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        // The machine ends with its guest, and an event tells why. A reset is an end too, because a
        // sandbox that silently starts afresh has lost its containers.
        self.option("-action", "reboot=shutdown,shutdown=poweroff,panic=shutdown");
    }

    /// Restoring goes by the id of the memory, not by its kind.
    fn memory(&mut self, spec: &VmSpec, start: Start<'_>) {
        let (file, share) = match start {
            Start::Boot => {
                let private = format!("memory-backend-ram,id=memory,size={}M", spec.memory.0);
                return self.option("-object", private);
            }
            Start::BootTemplate { memory } => (memory, "on"),
            Start::Clone { memory } => (memory, "off"),
        };
        let mut value = OsString::from(format!(
            "memory-backend-file,id=memory,size={}M,share={share},mem-path=",
            spec.memory.0
        ));
        value.push(escape_commas(file));
        self.option("-object", value);
    }

    fn guest(&mut self, spec: &VmSpec, tsc_khz: Option<u64>) {
        self.option("-kernel", &spec.guest.kernel);
        self.option("-initrd", &spec.guest.initramfs);
        self.option("-append", command_line(spec, tsc_khz));
    }

    fn control(&mut self, sockets: &Sockets) {
        self.option("-chardev", "socket,id=qmp,fd=0,server=on,wait=off");
        self.option("-mon", "chardev=qmp,mode=control");
        // A console that nobody reads is thrown away: a file would let the guest fill the host's
        // disk.
        self.option("-chardev", socket("console", &sockets.console));
        self.option("-serial", "chardev:console");
        self.option("-device", "virtio-serial-pci,id=serial");
        self.option("-chardev", socket("agent", &sockets.agent));
        self.option(
            "-device",
            format!("virtserialport,bus=serial.0,chardev=agent,id={AGENT_PORT},name=vmrt.agent"),
        );
    }

    fn devices(&mut self, spec: &VmSpec) {
        // The share holds bind mounts of many filesystems, whose inode numbers collide: remapping
        // keeps files apart that the guest would otherwise take for one.
        let mut share = OsString::from("local,id=share,path=");
        share.push(escape_commas(&spec.share));
        share.push(",security_model=passthrough,multidevs=remap");
        self.option("-fsdev", share);
        self.option("-device", "virtio-9p-pci,fsdev=share,mount_tag=share");
        self.option("-object", "rng-random,id=entropy,filename=/dev/urandom");
        self.option("-device", "virtio-rng-pci,rng=entropy");
        // Tells the guest's kernel of its being a clone before the agent can. Under TCG that costs
        // a tenth of a restoration, most of it translated ACPI code, and nothing runs in between.
        if spec.accelerator == Accelerator::Kvm {
            self.option("-device", "vmgenid,guid=auto");
        }
        self.option("-device", "pvpanic-pci");
        for port in 1..=SPARE_PORTS {
            self.option(
                "-device",
                format!("pcie-root-port,id=port{port},chassis={port},slot={port}"),
            );
        }
    }
}

/// `loglevel=1` because each character costs an exit to QEMU; at 0 the kernel would keep silent in
/// a panic, too. `panic=-1` resets at once, after pvpanic has told the host. With
/// `tsc_early_khz` the guest need not measure what a loaded host would let it measure wrongly.
fn command_line(spec: &VmSpec, tsc_khz: Option<u64>) -> String {
    let mut line = String::from(
        "console=ttyS0 quiet loglevel=1 reboot=t panic=-1 no_timer_check tsc=reliable",
    );
    if let (Accelerator::Tcg, Some(khz)) = (spec.accelerator, tsc_khz) {
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    for word in &spec.command_line {
        line.push(' ');
        line.push_str(word);
    }
    line
}

fn socket(id: &str, path: &Path) -> OsString {
    let mut value = OsString::from(format!("socket,id={id},path="));
    value.push(escape_commas(path));
    value.push(",server=on,wait=off");
    value
}

/// A comma ends a value in QEMU's option syntax unless it is doubled.
fn escape_commas(path: &Path) -> OsString {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        escaped.push(*byte);
        if *byte == b',' {
            escaped.push(b',');
        }
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vmm::{GuestImage, Lifetime, Mebibytes, NetworkNamespace};

    fn spec() -> VmSpec {
        VmSpec {
            directory: "/run/vmrt/s1".into(),
            share: "/run/vmrt/s1/share".into(),
            guest: GuestImage::in_directory(Path::new("/usr/lib/vmrt")),
            vcpus: 2,
            memory: Mebibytes(512),
            accelerator: Accelerator::Tcg,
            lifetime: Lifetime::DiesWithOwner,
            network: NetworkNamespace::New,
            command_line: vec!["quiet".into(), "vmrt.log=debug".into()],
            boot_deadline: Duration::from_secs(30),
        }
    }

    fn text(spec: &VmSpec) -> String {
        started(spec, Start::Boot)
    }

    fn started(spec: &VmSpec, start: Start<'_>) -> String {
        let sockets = Sockets::new(&spec.directory).unwrap();
        let mut text = String::new();
        for argument in arguments(spec, start, &sockets, Some(2_800_000)) {
            let argument = argument.into_string().unwrap();
            text.push(if argument.starts_with('-') { '\n' } else { ' ' });
            text.push_str(&argument);
        }
        text
    }

    #[test]
    fn the_command_line_is_the_golden_one() {
        assert_eq!(text(&spec()).trim(), include_str!("arguments.golden").trim());
    }

    #[test]
    fn kvm_shows_the_guest_the_processor_of_the_host() {
        let spec = VmSpec { accelerator: Accelerator::Kvm, ..spec() };
        assert!(text(&spec).contains("\n-accel kvm\n-cpu host\n"));
    }

    #[test]
    fn a_clone_has_its_templates_devices_and_differs_in_its_beginning_only() {
        let memory = Path::new("/t/memory");
        let template = started(&spec(), Start::BootTemplate { memory });
        let clone = started(&spec(), Start::Clone { memory });
        let only_in = |one: &str, other: &str| -> Vec<String> {
            one.lines()
                .filter(|line| !other.lines().any(|it| it == *line))
                .map(str::to_owned)
                .collect()
        };
        let object = "-object memory-backend-file,id=memory,size=512M,share=off,mem-path=/t/memory";
        assert_eq!(only_in(&clone, &template), [object, "-incoming defer"]);
        let words: Vec<_> = only_in(&template, &clone)
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(words, ["-object", "-kernel", "-initrd", "-append"]);
        assert!(template.contains("share=on,mem-path=/t/memory"));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        let spec = VmSpec { share: "/a,b".into(), ..spec() };
        assert!(text(&spec).contains("path=/a,,b,security_model"));
    }

    #[test]
    fn a_directory_too_deep_for_a_socket_is_refused_with_its_length() {
        let directory = Path::new("/").join("d".repeat(95));
        let error = Sockets::new(&directory).unwrap_err();
        assert!(matches!(error, VmmError::SocketPathTooLong { length: 109, limit: 107, .. }));
        assert!(Sockets::new(&Path::new("/").join("d".repeat(93))).is_ok());
    }
}
