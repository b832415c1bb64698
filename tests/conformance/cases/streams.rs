//! Standard streams: whole, in order, and nobody waits for somebody else's reader.

use std::time::Duration;

use conformance::{Bundle, noise, process};
use runtime_api::{Endpoint, ErrorKind, Status, Stdio};
use sha2::{Digest, Sha256};

use crate::case::{Case, case};
use crate::context::Context;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("5 MB of input arrive whole", "Behaviour: 5 MB in", much_input),
    case!(
        "8 MiB of output arrive whole from a process that exits at once",
        "Wait: output",
        much_output
    ),
    case!("both outputs are whole when both are busy", "Behaviour: streams", both),
    case!("output is there when wait returns", "wait(): output", before_wait),
    case!("the outputs of a process end with it", "Behaviour: streams", ends)
        .pending("the library keeps the pipes until the process is deleted"),
    case!(
        "input that is closed before the start is at its end",
        "CloseIO: before Start",
        closed_early
    ),
    case!("queued input is delivered before it ends", "CloseIO: queued bytes", queued),
    case!("input stays open until it is closed", "CloseIO: own writer", stays_open),
    case!("close_io is idempotent, and harmless without an input", "CloseIO", closed_twice),
    case!("close_io of an unknown container is not found", "CloseIO", close_unknown),
    case!("without endpoints a process runs all the same", "Endpoint: null", null),
    case!("a log file has both streams", "Behaviour: --log-uri file", log_file),
    case!("a log file is appended to", "Endpoint: file", appended),
    case!(
        "a stalled reader does not keep kill from ending the process",
        "IO: stalled reader",
        stalled_kill
    ),
    case!(
        "a stalled reader does not hold up exec, state or kill",
        "IO: stalled reader",
        stalled_calls
    ),
    case!(
        "a stalled reader of an exec does not hold up its container",
        "IO: stalled reader",
        stalled_exec
    ),
    case!(
        "nobody reads: the process blocks and goes on with the reader",
        "Behaviour: run -d",
        drained_late
    ),
    case!("a flood does not delay the output of another container", "IO: flood", flood),
];

fn sum(data: &[u8]) -> String {
    let digest = Sha256::digest(data);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

const INPUT: Wanted = Wanted { input: true, terminal: false, held: false };
const HELD: Wanted = Wanted { input: false, terminal: false, held: true };

async fn much_input(context: &Context) {
    let data = noise(5_000_000);
    let mut container = context.create_with(&Bundle::running(&["cat"]), INPUT).await;
    container.start().await.unwrap();
    container.streams.input.as_mut().unwrap().write(&data).await;
    container.end_input().await.unwrap();
    context.expect("code", container.wait().await.unwrap().code, 0);
    container.delete().await.unwrap();
    let out = container.out().await;
    context.expect("output", (out.len(), sum(&out)), (data.len(), sum(&data)));
}

async fn much_output(context: &Context) {
    // What it writes is known beforehand: numbers in lines.
    let script = "exec seq 1000000 1 2048575";
    let mut container = context.create(&["sh", "-c", script]).await;
    let ran = container.run().await;
    let wanted: String = (1_000_000..=2_048_575).map(|number| format!("{number}\n")).collect();
    context.expect("code", ran.code, 0);
    let seen = (ran.out.len(), sum(ran.out.as_bytes()));
    context.expect("output", seen, (wanted.len(), sum(wanted.as_bytes())));
}

async fn both(context: &Context) {
    let script = "head -c 1000000 /dev/zero | tr '\\0' e >&2 & \
                  head -c 2000000 /dev/zero | tr '\\0' o; wait";
    let ran = context.shell(script).await;
    context.expect("code", ran.code, 0);
    context.expect("out", ran.out == "o".repeat(2_000_000), true);
    context.expect("err", ran.err == "e".repeat(1_000_000), true);
}

async fn before_wait(context: &Context) {
    let wanted = Wanted { held: true, ..Wanted::default() };
    let bundle = Bundle::running(&["sh", "-c", "seq 1 5000"]);
    let container = context.create_with(&bundle, wanted).await;
    container.start().await.unwrap();
    container.wait().await.unwrap();
    // A pipe has room for it; it must be in there by now, for the reader who comes only now.
    container.streams.out.release();
    container.streams.out.until("\n5000\n").await;
    container.delete().await.unwrap();
}

async fn ends(context: &Context) {
    let mut container = context.started(&["echo", "done"]).await;
    container.wait().await.unwrap();
    let out = container.out().await;
    context.expect("output", String::from_utf8_lossy(&out).into_owned(), "done\n".to_owned());
    container.delete().await.unwrap();
}

async fn closed_early(context: &Context) {
    let mut container = context.create_with(&Bundle::running(&["cat"]), INPUT).await;
    context.allowed("close", container.end_input().await);
    context.ran("init", container.run().await, 0, "");
}

async fn queued(context: &Context) {
    let mut container = context.create_with(&Bundle::running(&["cat"]), INPUT).await;
    container.streams.input.as_mut().unwrap().write(b"queued\n").await;
    context.allowed("close", container.end_input().await);
    context.ran("init", container.run().await, 0, "queued\n");
}

async fn stays_open(context: &Context) {
    let mut container = context.create_with(&Bundle::running(&["cat"]), INPUT).await;
    container.start().await.unwrap();
    container.streams.input.as_mut().unwrap().write(b"one\n").await;
    container.streams.out.until("one\n").await;
    // The client goes, and another one may come.
    drop(container.streams.input.take());
    tokio::time::sleep(Duration::from_millis(300)).await;
    context.expect("status", container.status().await.unwrap(), Status::Running);
    context.allowed("close", container.end_input().await);
    context.ran("init", container.end().await, 0, "one\n");
}

async fn closed_twice(context: &Context) {
    let mut container = context.create_with(&Bundle::running(&["cat"]), INPUT).await;
    container.start().await.unwrap();
    context.allowed("close", container.end_input().await);
    context.allowed("again", container.end_input().await);
    context.ran("init", container.end().await, 0, "");
    let without = context.sleeping().await;
    context.allowed("without an input", without.close_io().await);
    without.dispose().await;
}

async fn close_unknown(context: &Context) {
    let container = context.sleeping().await;
    let closed = context.runtime().close_io(&context.unknown()).await;
    context.refused("close", closed, ErrorKind::NotFound);
    container.dispose().await;
}

async fn null(context: &Context) {
    let bundle = Bundle::running(&["sh", "-c", "echo lost; cat; exit 7"]);
    let (mut request, streams) = context.request(&bundle, Wanted::default());
    request.stdio = Stdio::default();
    let container = context.create_as(request, streams).await.unwrap();
    container.start().await.unwrap();
    context.expect("code", container.wait().await.unwrap().code, 7);
    container.delete().await.unwrap();
}

async fn log_file(context: &Context) {
    let bundle = Bundle::running(&["sh", "-c", "echo out; echo err >&2"]);
    let (mut request, streams) = context.request(&bundle, Wanted::default());
    let path = context.root.join("both.log");
    let file = || Endpoint::File(path.clone());
    request.stdio = Stdio { stdout: file(), stderr: file(), ..Stdio::default() };
    let container = context.create_as(request, streams).await.unwrap();
    container.start().await.unwrap();
    container.wait().await.unwrap();
    container.delete().await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    context.expect("lines", lines, vec!["err", "out"]);
}

async fn appended(context: &Context) {
    let path = context.root.join("log");
    std::fs::write(&path, "before\n").unwrap();
    let (mut request, streams) =
        context.request(&Bundle::running(&["echo", "after"]), Wanted::default());
    let file = || Endpoint::File(path.clone());
    request.stdio = Stdio { stdout: file(), stderr: file(), ..Stdio::default() };
    let container = context.create_as(request, streams).await.unwrap();
    container.start().await.unwrap();
    container.wait().await.unwrap();
    container.delete().await.unwrap();
    context.expect("text", std::fs::read_to_string(&path).unwrap(), "before\nafter\n".to_owned());
}

async fn stalled_kill(context: &Context) {
    let container = context.create_with(&Bundle::running(&["yes"]), HELD).await;
    container.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let killed = context.within("kill", Duration::from_secs(1), container.kill(9)).await;
    context.allowed("kill", killed);
    let exit = context.within("exit", Duration::from_secs(2), container.wait()).await;
    context.expect("code", exit.unwrap().code, 137);
    container.streams.out.release();
    container.delete().await.unwrap();
}

async fn stalled_calls(context: &Context) {
    let container = context.create_with(&Bundle::running(&["yes"]), HELD).await;
    container.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let state = context.within("state", Duration::from_secs(1), container.status()).await;
    context.expect("status", state.unwrap(), Status::Running);
    let mut exec = container.exec("e", &["echo", "here"]).await.unwrap();
    let ran = context.within("exec", Duration::from_secs(5), exec.run()).await;
    context.ran("exec", ran, 0, "here\n");
    container.kill(9).await.unwrap();
    container.wait().await.unwrap();
    container.streams.out.release();
    container.delete().await.unwrap();
}

async fn stalled_exec(context: &Context) {
    let script = "while true; do echo tick; sleep 0.1; done";
    let container = context.started(&["sh", "-c", script]).await;
    let exec = container.exec_with("e", process(&["yes"]), HELD).await.unwrap();
    exec.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = container.streams.out.so_far().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let more = container.streams.out.so_far().len() > before;
    context.expect("its container goes on to write", more, true);
    context.allowed("kill", exec.kill(9).await);
    context.expect("code", exec.wait().await.unwrap().code, 137);
    exec.streams.out.release();
    exec.delete().await.unwrap();
    container.dispose().await;
}

async fn drained_late(context: &Context) {
    let bundle = Bundle::running(&["sh", "-c", "seq 1 100000; exit 2"]);
    let mut container = context.create_with(&bundle, HELD).await;
    container.start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    context.expect("it blocks", container.status().await.unwrap(), Status::Running);
    container.streams.out.release();
    let ran = container.end().await;
    let wanted: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    context.expect("code", ran.code, 2);
    context.expect("output", ran.out == wanted, true);
}

async fn flood(context: &Context) {
    let noisy = context.started(&["yes", "0123456789012345678901234567890123456789"]).await;
    let pod = noisy.container().to_string();
    let script = "while true; do echo tick; sleep 0.1; done";
    let quiet = Bundle::running(&["sh", "-c", script]).in_sandbox(&pod);
    let quiet = context.create_with(&quiet, Wanted::default()).await;
    quiet.start().await.unwrap();
    quiet.streams.out.until("tick\ntick\n").await;
    // Both share the processor of their machine, so that a tick may be late, but not by much.
    let before = quiet.streams.out.so_far().len();
    let three = async {
        while quiet.streams.out.so_far().len() < before + 3 * "tick\n".len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ticks = tokio::time::timeout(Duration::from_secs(5), three).await;
    context.expect("the quiet one ticks on", ticks.is_ok(), true);
    context.within("state", Duration::from_secs(1), quiet.status()).await.unwrap();
    context.expect("the flood flows", noisy.streams.out.so_far().len() > 1 << 16, true);
    quiet.dispose().await;
    noisy.dispose().await;
}
