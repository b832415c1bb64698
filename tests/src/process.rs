//! Processes of the host, as /proc tells of them.

use std::fs;

/// A living process.
#[derive(Clone, Debug)]
pub struct HostProcess {
    /// Its number.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// How many threads it has.
    pub threads: u32,
    /// Its command line, blanks between the words.
    pub command: String,
}

/// All living processes; those that only wait to be reaped are not alive.
pub fn processes() -> Vec<HostProcess> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    entries
        .flatten()
        .filter_map(|entry| HostProcess::read(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

impl HostProcess {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields[0], "Z" | "X") {
            return None;
        }
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
        let (parent, threads) = (fields[1].parse().ok()?, fields[17].parse().ok()?);
        Some(Self { pid, parent, threads, command })
    }

    /// Its proportional share of memory in KiB (proc(5), smaps_rollup).
    pub fn pss(&self) -> u64 {
        self.pss_if_alive().unwrap_or_else(|| panic!("{self:?} has no smaps_rollup"))
    }

    /// [`pss`](Self::pss), unless the process has ended meanwhile.
    pub fn pss_if_alive(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args(["-s", name, &self.pid.to_string()])
            .status()
            .expect("run kill");
        assert!(status.success(), "kill -s {name} {} failed", self.pid);
    }
}
