//! [`Stats`] ⇄ the metrics messages of containerd/cgroups, the only ones that daemons understand.

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_api::{
    BlockIo, BlockOperation, CpuStats, Error, MemoryStats, PidsStats, Result, Stats,
};
use std::time::SystemTime;

use crate::convert::{any, decode, encode};

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

/// How "no limit" is written in these messages.
const UNLIMITED: u64 = u64::MAX;

/// Which of the two messages a consumer reads; a CRI daemon expects that of its own host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupVersion {
    /// `io.containerd.cgroups.v1.Metrics`.
    V1,
    /// `io.containerd.cgroups.v2.Metrics`.
    #[default]
    V2,
}

/// [`Stats`] → a metrics message.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub(crate) fn to_any(stats: &Stats, version: CgroupVersion) -> Result<Any> {
    Ok(match version {
        CgroupVersion::V1 => any(V1, encode(&to_v1(stats))?),
        CgroupVersion::V2 => any(V2, encode(&to_v2(stats))?),
    })
}

/// A metrics message → [`Stats`].
///
/// # Errors
/// `Internal` for a message that is neither.
pub(crate) fn from_any(message: &Any) -> Result<Stats> {
    match message.type_url.rsplit('/').next() {
        Some(V1) => Ok(from_v1(&decode(&message.value)?)),
        Some(V2) => Ok(from_v2(&decode(&message.value)?)),
        _ => Err(Error::internal(format!("stats of the unknown type {:?}", message.type_url))),
    }
}

fn to_v2(stats: &Stats) -> v2::Metrics {
    let memory = &stats.memory;
    let mut metrics = v2::Metrics::new();
    metrics.pids = field(v2::PidsStat {
        current: stats.pids.current,
        limit: stats.pids.limit.unwrap_or(0),
        ..Default::default()
    });
    metrics.cpu = field(v2::CPUStat {
        usage_usec: stats.cpu.usage,
        user_usec: stats.cpu.user,
        system_usec: stats.cpu.system,
        nr_periods: stats.cpu.periods,
        nr_throttled: stats.cpu.throttled_periods,
        throttled_usec: stats.cpu.throttled,
        ..Default::default()
    });
    metrics.memory = field(v2::MemoryStat {
        usage: memory.usage,
        usage_limit: memory.limit.unwrap_or(UNLIMITED),
        max_usage: memory.peak,
        swap_usage: memory.swap_usage,
        swap_limit: memory.swap_limit.unwrap_or(UNLIMITED),
        anon: memory.anon,
        file: memory.file,
        // The trait has one figure for the kernel's share; slab is its largest part.
        slab: memory.kernel,
        inactive_anon: memory.inactive_anon,
        active_anon: memory.active_anon,
        inactive_file: memory.inactive_file,
        active_file: memory.active_file,
        pgfault: memory.page_faults,
        pgmajfault: memory.major_page_faults,
        ..Default::default()
    });
    metrics.memory_events = field(v2::MemoryEvents {
        max: memory.limit_hits,
        oom: memory.oom_kills,
        oom_kill: memory.oom_kills,
        ..Default::default()
    });
    let entry = |io: &BlockIo| v2::IOEntry {
        major: io.major,
        minor: io.minor,
        rbytes: io.read.bytes,
        wbytes: io.write.bytes,
        rios: io.read.requests,
        wios: io.write.requests,
        ..Default::default()
    };
    metrics.io =
        field(v2::IOStat { usage: stats.io.iter().map(entry).collect(), ..Default::default() });
    metrics
}

fn from_v2(metrics: &v2::Metrics) -> Stats {
    let limit = |value: u64| (value != UNLIMITED).then_some(value);
    let memory = &metrics.memory;
    let entry = |io: &v2::IOEntry| BlockIo {
        major: io.major,
        minor: io.minor,
        read: BlockOperation { bytes: io.rbytes, requests: io.rios },
        write: BlockOperation { bytes: io.wbytes, requests: io.wios },
    };
    Stats {
        at: SystemTime::now(),
        cpu: CpuStats {
            usage: metrics.cpu.usage_usec,
            user: metrics.cpu.user_usec,
            system: metrics.cpu.system_usec,
            periods: metrics.cpu.nr_periods,
            throttled_periods: metrics.cpu.nr_throttled,
            throttled: metrics.cpu.throttled_usec,
        },
        memory: MemoryStats {
            usage: memory.usage,
            limit: limit(memory.usage_limit),
            peak: memory.max_usage,
            swap_usage: memory.swap_usage,
            swap_limit: limit(memory.swap_limit),
            anon: memory.anon,
            file: memory.file,
            kernel: memory.slab,
            inactive_anon: memory.inactive_anon,
            active_anon: memory.active_anon,
            inactive_file: memory.inactive_file,
            active_file: memory.active_file,
            page_faults: memory.pgfault,
            major_page_faults: memory.pgmajfault,
            limit_hits: metrics.memory_events.max,
            oom_kills: metrics.memory_events.oom_kill,
        },
        pids: PidsStats {
            current: metrics.pids.current,
            limit: (metrics.pids.limit != 0).then_some(metrics.pids.limit),
        },
        io: metrics.io.usage.iter().map(entry).collect(),
    }
}

/// The v1 message counts time in nanoseconds.
const NANOSECONDS: u64 = 1000;

fn from_v1(metrics: &v1::Metrics) -> Stats {
    // Its kernel rounds "no limit" down to a page.
    let limit = |value: u64| (value < i64::MAX as u64 - 0xffff).then_some(value);
    let memory = &metrics.memory;
    Stats {
        at: SystemTime::now(),
        cpu: CpuStats {
            usage: metrics.cpu.usage.total / NANOSECONDS,
            user: metrics.cpu.usage.user / NANOSECONDS,
            system: metrics.cpu.usage.kernel / NANOSECONDS,
            periods: metrics.cpu.throttling.periods,
            throttled_periods: metrics.cpu.throttling.throttled_periods,
            throttled: metrics.cpu.throttling.throttled_time / NANOSECONDS,
        },
        memory: MemoryStats {
            usage: memory.usage.usage,
            limit: limit(memory.usage.limit),
            peak: memory.usage.max,
            swap_usage: memory.swap.usage,
            swap_limit: limit(memory.swap.limit),
            anon: memory.total_rss,
            file: memory.total_cache,
            kernel: memory.kernel.usage,
            inactive_anon: memory.total_inactive_anon,
            active_anon: memory.total_active_anon,
            inactive_file: memory.total_inactive_file,
            active_file: memory.total_active_file,
            page_faults: memory.total_pg_fault,
            major_page_faults: memory.total_pg_maj_fault,
            limit_hits: memory.usage.failcnt,
            oom_kills: metrics.memory_oom_control.oom_kill,
        },
        pids: PidsStats {
            current: metrics.pids.current,
            limit: (metrics.pids.limit != 0).then_some(metrics.pids.limit),
        },
        io: devices(&metrics.blkio),
    }
}

fn devices(blkio: &v1::BlkIOStat) -> Vec<BlockIo> {
    let mut devices: Vec<BlockIo> = Vec::new();
    let bytes = blkio.io_service_bytes_recursive.iter().map(|entry| (true, entry));
    let requests = blkio.io_serviced_recursive.iter().map(|entry| (false, entry));
    for (is_bytes, entry) in bytes.chain(requests) {
        let known =
            devices.iter().position(|io| (io.major, io.minor) == (entry.major, entry.minor));
        let index = known.unwrap_or(devices.len());
        if known.is_none() {
            let (major, minor) = (entry.major, entry.minor);
            let (read, write) = Default::default();
            devices.push(BlockIo { major, minor, read, write });
        }
        let operation = match entry.op.as_str() {
            "Read" => &mut devices[index].read,
            "Write" => &mut devices[index].write,
            // Sums over both.
            _ => continue,
        };
        *(if is_bytes { &mut operation.bytes } else { &mut operation.requests }) = entry.value;
    }
    devices
}

fn to_v1(stats: &Stats) -> v1::Metrics {
    let memory = &stats.memory;
    let usage = |usage, limit: Option<u64>, max, failcnt| v1::MemoryEntry {
        usage,
        limit: limit.unwrap_or(UNLIMITED),
        max,
        failcnt,
        ..Default::default()
    };
    let mut metrics = v1::Metrics::new();
    metrics.pids = field(v1::PidsStat {
        current: stats.pids.current,
        limit: stats.pids.limit.unwrap_or(0),
        ..Default::default()
    });
    metrics.cpu = field(v1::CPUStat {
        usage: field(v1::CPUUsage {
            total: stats.cpu.usage.saturating_mul(NANOSECONDS),
            user: stats.cpu.user.saturating_mul(NANOSECONDS),
            kernel: stats.cpu.system.saturating_mul(NANOSECONDS),
            ..Default::default()
        }),
        throttling: field(v1::Throttle {
            periods: stats.cpu.periods,
            throttled_periods: stats.cpu.throttled_periods,
            throttled_time: stats.cpu.throttled.saturating_mul(NANOSECONDS),
            ..Default::default()
        }),
        ..Default::default()
    });
    metrics.memory = field(v1::MemoryStat {
        cache: memory.file,
        rss: memory.anon,
        total_cache: memory.file,
        total_rss: memory.anon,
        inactive_anon: memory.inactive_anon,
        active_anon: memory.active_anon,
        inactive_file: memory.inactive_file,
        active_file: memory.active_file,
        total_inactive_anon: memory.inactive_anon,
        total_active_anon: memory.active_anon,
        total_inactive_file: memory.inactive_file,
        total_active_file: memory.active_file,
        pg_fault: memory.page_faults,
        pg_maj_fault: memory.major_page_faults,
        total_pg_fault: memory.page_faults,
        total_pg_maj_fault: memory.major_page_faults,
        hierarchical_memory_limit: memory.limit.unwrap_or(UNLIMITED),
        usage: field(usage(memory.usage, memory.limit, memory.peak, memory.limit_hits)),
        swap: field(usage(memory.swap_usage, memory.swap_limit, 0, 0)),
        kernel: field(usage(memory.kernel, None, 0, 0)),
        kernel_tcp: field(usage(0, None, 0, 0)),
        ..Default::default()
    });
    metrics.memory_oom_control =
        field(v1::MemoryOomControl { oom_kill: memory.oom_kills, ..Default::default() });
    metrics.blkio = field(blkio(&stats.io));
    metrics
}

fn blkio(devices: &[BlockIo]) -> v1::BlkIOStat {
    let entries = |of: fn(&BlockOperation) -> u64| {
        let entry = move |io: &BlockIo, op: &str, value| v1::BlkIOEntry {
            op: op.to_owned(),
            major: io.major,
            minor: io.minor,
            value,
            ..Default::default()
        };
        devices
            .iter()
            .flat_map(|io| [entry(io, "Read", of(&io.read)), entry(io, "Write", of(&io.write))])
            .collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(|operation| operation.bytes),
        io_serviced_recursive: entries(|operation| operation.requests),
        ..Default::default()
    }
}

fn field<M: Message>(message: M) -> MessageField<M> {
    MessageField::some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stats {
        Stats {
            at: SystemTime::UNIX_EPOCH,
            cpu: CpuStats { usage: 3, user: 2, system: 1, ..Default::default() },
            memory: MemoryStats { usage: 4096, limit: Some(8192), kernel: 5, ..Default::default() },
            pids: PidsStats { current: 2, limit: None },
            io: vec![BlockIo {
                major: 8,
                minor: 1,
                read: BlockOperation { bytes: 512, requests: 1 },
                write: BlockOperation::default(),
            }],
        }
    }

    #[test]
    fn stats_survive_their_messages() {
        for version in [CgroupVersion::V1, CgroupVersion::V2] {
            let back = from_any(&to_any(&sample(), version).unwrap()).unwrap();
            assert_eq!(Stats { at: sample().at, ..back }, sample(), "{version:?}");
        }
        assert!(from_any(&any("io.containerd.Colours", Vec::new())).is_err());
    }

    #[test]
    fn the_v1_message_has_every_part_that_a_cri_daemon_dereferences() {
        let metrics = to_v1(&sample());
        assert_eq!(metrics.cpu.usage.total, 3000);
        assert!(metrics.cpu.throttling.is_some());
        let memory = &metrics.memory;
        assert_eq!((memory.usage.usage, memory.usage.limit), (4096, 8192));
        assert!(memory.swap.is_some() && memory.kernel.is_some() && memory.kernel_tcp.is_some());
        assert!(metrics.pids.is_some());
        assert_eq!(metrics.blkio.io_service_bytes_recursive[0].value, 512);
    }
}
