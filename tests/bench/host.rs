//! The machine and the programs that the figures belong to.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command;

/// What a report says of its origin.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Host {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
    pub(crate) containerd: String,
    pub(crate) runc: String,
    pub(crate) qemu: String,
    /// Of the guest, as the guest says.
    pub(crate) guest_kernel: String,
    /// As a running QEMU was told.
    pub(crate) accelerator: String,
}

impl Host {
    /// What can be told without a guest.
    pub(crate) fn look() -> Self {
        let version = |program: &str| first_line_of(program, &["--version"]);
        Self {
            date: first_line_of("date", &["-u", "+%FT%TZ"]),
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line_of("uname", &["-r"]),
            memory_mib: memory_kib("MemTotal") / 1024,
            containerd: version("containerd"),
            runc: version("runc"),
            qemu: version("qemu-system-x86_64"),
            ..Self::default()
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "date": self.date,
            "processor": self.processor,
            "cores": self.cores,
            "kernel": self.kernel,
            "memory_mib": self.memory_mib,
            "containerd": self.containerd,
            "runc": self.runc,
            "qemu": self.qemu,
            "guest_kernel": self.guest_kernel,
            "accelerator": self.accelerator,
        })
    }
}

/// A field of /proc/meminfo in KiB.
pub(crate) fn memory_kib(name: &str) -> u64 {
    field("/proc/meminfo", name).trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// The accelerator in the command line of a QEMU.
pub(crate) fn accelerator(command_line: &str) -> Option<&str> {
    let mut words = command_line.split(' ').skip_while(|word| *word != "-accel");
    words.nth(1)?.split(',').next()
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let of = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(of).unwrap_or_default()
}

fn first_line_of(program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    let finished = command::run(command, Duration::from_secs(10));
    finished.map_or_else(
        |failure| failure.chain(),
        |finished| finished.text().lines().next().unwrap_or_default().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let host = Host::look();
        assert!(host.cores > 0 && host.memory_mib > 0 && host.date.ends_with('Z'), "{host:?}");
        assert!(!host.kernel.is_empty());
        assert!(memory_kib("MemAvailable") > 0);
    }

    #[test]
    fn the_accelerator_is_a_word_of_the_command_line() {
        assert_eq!(accelerator("qemu -m 512 -accel tcg,thread=single -cpu max"), Some("tcg"));
        assert_eq!(accelerator("qemu -accel kvm"), Some("kvm"));
        assert_eq!(accelerator("qemu -m 512"), None);
    }
}
