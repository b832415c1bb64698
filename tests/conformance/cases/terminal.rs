//! Pseudo terminals.

use conformance::Bundle;
use runtime_api::{ErrorKind, WindowSize};
use serde_json::json;

use crate::case::{Case, case};
use crate::context::Context;
use crate::process::Process;
use crate::streams::Wanted;

pub(crate) const CASES: &[Case] = &[
    case!("a container with a terminal has one on all three streams", "Behaviour: -t", has_one),
    case!("a terminal has the size that it was given", "ResizePty", size),
    case!("a process hears when its terminal changes", "ResizePty", winch),
    case!("the size can come with the process", "config.md: consoleSize", console_size),
    case!("^C ends a process with 130", "Behaviour: ^C", interrupt),
    case!("^D ends the input", "Behaviour: ^D", end),
    case!("without a terminal resizing does nothing", "ResizePty: no tty", without),
    case!("resizing a stopped container is refused", "ResizePty: stopped", stopped),
    case!("resizing an unknown container is not found", "ResizePty", unknown),
];

async fn terminal<'a>(context: &'a Context, args: &[&str]) -> Process<'a> {
    let mut bundle = Bundle::running(args);
    bundle.spec["process"]["terminal"] = json!(true);
    let wanted = Wanted { input: true, terminal: true, held: false };
    context.create_with(&bundle, wanted).await
}

async fn has_one(context: &Context) {
    let script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; exit 3";
    let mut container = terminal(context, &["sh", "-c", script]).await;
    let ran = container.run().await;
    context.expect("code", ran.code, 3);
    // Where its file is mounted is a matter of taste.
    let lines: Vec<_> = ran.out.lines().collect();
    let named = lines.first().is_some_and(|name| name.starts_with("/dev/"));
    context.expect("it has a name", named, true);
    context.expect("lines", lines[1..].to_vec(), vec!["all"]);
    context.expect("lines end as on a terminal", ran.out.ends_with("all\r\n"), true);
}

async fn size(context: &Context) {
    let script = "read line; stty size; exit 0";
    let mut container = terminal(context, &["sh", "-c", script]).await;
    container.start().await.unwrap();
    context.allowed("resize", container.resize(120, 40).await);
    container.streams.input.as_mut().unwrap().write(b"\n").await;
    let ran = container.end().await;
    context.expect("size", ran.out.trim().to_owned(), "40 120".to_owned());
}

async fn winch(context: &Context) {
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while true; do sleep 0.05; done";
    let mut container = terminal(context, &["sh", "-c", script]).await;
    container.start().await.unwrap();
    container.streams.out.until("ready").await;
    context.allowed("resize", container.resize(100, 30).await);
    let ran = container.end().await;
    context.expect("output", ran.out, "ready\r\n30 100\r\n".to_owned());
}

async fn console_size(context: &Context) {
    let mut bundle = Bundle::running(&["stty", "size"]);
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["consoleSize"] = json!({"height": 24, "width": 80});
    let wanted = Wanted { terminal: true, ..Wanted::default() };
    let mut container = context.create_with(&bundle, wanted).await;
    context.ran("init", container.run().await, 0, "24 80\r\n");
}

async fn interrupt(context: &Context) {
    // The shell is pid 1 and so deaf to ^C; what it waits for is not.
    let script = "echo ready; (sleep 1000); echo code $?; exit 0";
    let container = context.sleeping().await;
    let mut process = conformance::process(&["sh", "-c", script.trim()]);
    process["terminal"] = json!(true);
    let wanted = Wanted { input: true, terminal: true, held: false };
    let mut exec = container.exec_with("e", process, wanted).await.unwrap();
    exec.start().await.unwrap();
    exec.streams.out.until("ready").await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    exec.streams.input.as_mut().unwrap().write(b"\x03").await;
    context.expect("code", exec.wait().await.unwrap().code, 130);
    exec.delete().await.unwrap();
    container.dispose().await;
}

async fn end(context: &Context) {
    let mut container = terminal(context, &["cat"]).await;
    container.start().await.unwrap();
    container.streams.input.as_mut().unwrap().write(b"line\n").await;
    container.streams.out.until("line\r\nline\r\n").await;
    container.streams.input.as_mut().unwrap().write(b"\x04").await;
    context.ran("init", container.end().await, 0, "line\r\nline\r\n");
}

async fn without(context: &Context) {
    let container = context.sleeping().await;
    context.allowed("resize", container.resize(80, 24).await);
    container.dispose().await;
}

async fn stopped(context: &Context) {
    let mut bundle = Bundle::running(&["true"]);
    bundle.spec["process"]["terminal"] = json!(true);
    let wanted = Wanted { terminal: true, ..Wanted::default() };
    let container = context.create_with(&bundle, wanted).await;
    container.start().await.unwrap();
    container.wait().await.unwrap();
    context.refused("resize", container.resize(80, 24).await, ErrorKind::FailedPrecondition);
    container.delete().await.unwrap();
}

async fn unknown(context: &Context) {
    let container = context.sleeping().await;
    let size = WindowSize { width: 80, height: 24 };
    let resized = context.runtime().resize_pty(&context.unknown(), size).await;
    context.refused("resize", resized, ErrorKind::NotFound);
    container.dispose().await;
}
