//! Moving data: standard output, and the root filesystem.

use std::io::Read;
use std::process::ChildStdout;
use std::time::Instant;

use crate::bench::{Bench, DEADLINE, progress};
use crate::command::{run, run_reading};
use crate::failure::Failure;
use crate::report::{Findings, Measure, Runtime, Samples, Unit};
use crate::rows::Row;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "stdio",
        title: "what a container writes to standard output, from its first to its last byte at the reader of ctr",
        measures: &["stdio"],
        measure: stdio,
    },
    Row {
        name: "rootfs",
        title: "the root filesystem, by the container's own clock",
        measures: &["metadata", "write", "read"],
        measure: rootfs,
    },
];

/// What a reader saw.
struct Received {
    bytes: u64,
    seconds: f64,
}

fn stdio(bench: &Bench) -> Result<Findings, Failure> {
    let megabytes = bench.plan.stdio_mib;
    let count = format!("count={megabytes}");
    let words = ["dd", "if=/dev/zero", "bs=1M", &count];
    let sides = in_turn(bench, "stdio", |runtime| {
        let id = bench.new_id();
        let command = bench.run(runtime, &id, &["--rm"], &words);
        let received = run_reading(command, DEADLINE, receive)?.output;
        if received.bytes != (megabytes as u64) << 20 {
            let bytes = received.bytes;
            return Err(Failure::Unexpected(format!("{bytes} bytes of {megabytes} MiB arrive")));
        }
        Ok(vec![received.bytes as f64 / 1e6 / received.seconds])
    })?;
    let [vmrt, runc] = sides.map(|mut all| all.remove(0));
    let measure = Measure::compared("stdio", Unit::MegabytesPerSecond, [vmrt, runc]);
    Ok(Findings::of(vec![measure]).note(format!("{megabytes} MiB")))
}

/// Reads everything. The first read is not in the time: what it returns was written before.
fn receive(mut stdout: ChildStdout) -> Received {
    let mut buffer = vec![0; 1 << 20];
    let (mut first, mut last, mut bytes) = (None, Instant::now(), 0);
    while let Ok(count) = stdout.read(&mut buffer) {
        if count == 0 {
            break;
        }
        last = Instant::now();
        first.get_or_insert(last);
        bytes += count as u64;
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    Received { bytes, seconds }
}

/// Prints lines `name begin end`, by the shell's own clock. Loops are the shell's own too, and the two
/// commands work on all files, so that it is the filesystem that is measured and not fork(2).
const SCRIPT: &str = r#"
mkdir /bench && cd /bench || exit 1
now() { time=$EPOCHREALTIME; }
told() { echo "$1 $time $EPOCHREALTIME"; }
now
i=0
while [ $i -lt FILES ]; do : >"f$i"; i=$((i+1)); done
stat f* >/dev/null || exit 1
rm f* || exit 1
told metadata
now
dd if=/dev/zero of=data bs=1M count=MIB conv=fsync 2>/dev/null || exit 1
told write
now
dd if=data of=/dev/null bs=1M 2>/dev/null || exit 1
told read
"#;
/// A file is created, looked at and removed.
const OPERATIONS: usize = 3;

fn rootfs(bench: &Bench) -> Result<Findings, Failure> {
    let (files, megabytes) = (bench.plan.files, bench.plan.file_mib);
    let script = SCRIPT.replace("FILES", &files.to_string()).replace("MIB", &megabytes.to_string());
    let sides = in_turn(bench, "rootfs", |runtime| {
        let id = bench.new_id();
        let command = bench.run(runtime, &id, &["--rm"], &["sh", "-c", &script]);
        let text = run(command, DEADLINE)?.text();
        let [metadata, write, read] = seconds(&text)
            .ok_or_else(|| Failure::Unexpected(format!("the container's figures: {text:?}")))?;
        let rate = |seconds| (megabytes << 20) as f64 / 1e6 / seconds;
        Ok(vec![(files * OPERATIONS) as f64 / metadata, rate(write), rate(read)])
    })?;
    let [vmrt, runc] = sides;
    let names = [
        ("metadata", Unit::OperationsPerSecond),
        ("write", Unit::MegabytesPerSecond),
        ("read", Unit::MegabytesPerSecond),
    ];
    let measures = names.into_iter().zip(vmrt.into_iter().zip(runc));
    let measures =
        measures.map(|((name, unit), (vmrt, runc))| Measure::compared(name, unit, [vmrt, runc]));
    Ok(Findings::of(measures.collect()).note(format!(
        "{files} empty files created, looked at and removed; {megabytes} MiB written with fsync, then \
         read as the write left them in the caches"
    )))
}

/// The seconds of the three parts in what the script printed.
fn seconds(text: &str) -> Option<[f64; 3]> {
    let of = |name: &str| {
        let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut times = words.filter_map(|words| match words[..] {
            [part, begin, end] if part == name => Some([begin.parse().ok()?, end.parse().ok()?]),
            _ => None,
        });
        let [begin, end]: [f64; 2] = times.next()?;
        (end > begin).then_some(end - begin)
    };
    Some([of("metadata")?, of("write")?, of("read")?])
}

/// Samples of several quantities at once, of both runtimes in turn.
fn in_turn(
    bench: &Bench,
    what: &str,
    mut sample: impl FnMut(Runtime) -> Result<Vec<f64>, Failure>,
) -> Result<[Vec<Samples>; 2], Failure> {
    let mut sides = [Vec::new(), Vec::new()];
    for round in 0..bench.plan.transfers {
        progress(&format!("{what}: {round} of {}", bench.plan.transfers));
        for turn in 0..2 {
            let side = (round + turn) % 2;
            let values = sample(Runtime::BOTH[side])?;
            sides[side].resize_with(values.len(), Samples::default);
            for (samples, value) in sides[side].iter_mut().zip(values) {
                samples.values.push(value);
            }
        }
    }
    Ok(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_figures_are_read() {
        let text =
            "metadata 10.50 12.75\nwrite 12.75 13\nread 1795500628.743700 1795500628.753700\n";
        let [metadata, write, read] = seconds(text).unwrap();
        assert_eq!((metadata, write), (2.25, 0.25));
        assert!((read - 0.01).abs() < 1e-6, "{read}");
        for text in [
            "",
            "metadata 1 2\nwrite 1 2",
            "metadata 1\nwrite 1 2\nread 1 2",
            "metadata 1 2\nwrite 2 2\nread 2 3",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
