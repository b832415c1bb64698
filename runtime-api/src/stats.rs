//! What a container uses, in one shape for every consumer.

use std::time::SystemTime;

/// What [`Runtime::stats`](crate::Runtime::stats) answers.
///
/// Counters are totals since the container was created. Sources: the files of cgroup v2
/// (Documentation/admin-guide/cgroup-v2.rst) named at each field.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// When the numbers were read, by the clock of the host.
    pub at: SystemTime,
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Block devices.
    pub io: Vec<BlockIo>,
}

/// Processor time (`cpu.stat`), in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// `usage_usec`.
    pub usage: u64,
    /// `user_usec`.
    pub user: u64,
    /// `system_usec`.
    pub system: u64,
    /// `nr_periods`: enforcement periods that have passed.
    pub periods: u64,
    /// `nr_throttled`: periods in which the container was throttled.
    pub throttled_periods: u64,
    /// `throttled_usec`.
    pub throttled: u64,
}

/// Memory, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// `memory.current`.
    pub usage: u64,
    /// `memory.max`; `None` without a limit.
    pub limit: Option<u64>,
    /// `memory.peak`; zero where the guest's kernel does not keep it.
    pub peak: u64,
    /// `memory.swap.current`.
    pub swap_usage: u64,
    /// `memory.swap.max`; `None` without a limit.
    pub swap_limit: Option<u64>,
    /// `memory.stat` `anon`.
    pub anon: u64,
    /// `memory.stat` `file`.
    pub file: u64,
    /// `memory.stat` `kernel_stack` + `slab` + `sock` and the like.
    pub kernel: u64,
    /// `memory.stat` `inactive_anon`.
    pub inactive_anon: u64,
    /// `memory.stat` `active_anon`.
    pub active_anon: u64,
    /// `memory.stat` `inactive_file`; a working set is `usage` less this.
    pub inactive_file: u64,
    /// `memory.stat` `active_file`.
    pub active_file: u64,
    /// `memory.stat` `pgfault`, a count.
    pub page_faults: u64,
    /// `memory.stat` `pgmajfault`, a count.
    pub major_page_faults: u64,
    /// `memory.events` `max`, a count: how often the limit was hit.
    pub limit_hits: u64,
    /// `memory.events` `oom_kill`, a count.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// `pids.current`.
    pub current: u64,
    /// `pids.max`; `None` without a limit.
    pub limit: Option<u64>,
}

/// What a block device did (`io.stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Device number, major part.
    pub major: u64,
    /// Device number, minor part.
    pub minor: u64,
    /// Reads.
    pub read: BlockOperation,
    /// Writes.
    pub write: BlockOperation,
}

/// One direction of a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockOperation {
    /// Bytes moved.
    pub bytes: u64,
    /// Requests made.
    pub requests: u64,
}
