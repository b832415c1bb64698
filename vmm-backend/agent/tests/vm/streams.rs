//! Every byte of every stream, and none that blocks another.

use std::time::Duration;

use guest_api::Stream::{STREAM_STDERR, STREAM_STDOUT};
use runtime_api::{KillScope, Runtime, Signal, WindowSize};
use serde_json::json;

use crate::bundle::{Bundle, process};
use crate::guest::{Guest, channels, exec, init};
use crate::in_a_guest;

const MIB: usize = 1 << 20;

#[test]
fn streams_are_complete_and_apart() {
    in_a_guest(async |guest| {
        let outcome = guest.run("exit", &["sh", "-c", "echo out; echo err >&2; exit 42"]).await;
        assert_eq!((outcome.code, outcome.text().as_str()), (42, "out"));
        assert_eq!(outcome.stderr, b"err\n");

        let zeros = guest.run("zeros", &["dd", "if=/dev/zero", "bs=65536", "count=128"]).await;
        assert_eq!((zeros.code, zeros.stdout.len()), (0, 8 * MIB));
        assert!(zeros.stdout.iter().all(|byte| *byte == 0));

        let pipe = guest.run("sigpipe", &["sh", "-c", "yes | head -n 1"]).await;
        assert_eq!((pipe.code, pipe.text().as_str(), pipe.stderr.len()), (0, "y", 0));

        input(guest).await;
        terminal(guest).await;
        terminal_exec(guest).await;
        unread_output(guest).await;
        inherited_output(guest).await;
    });
}

async fn input(guest: &Guest) {
    let data: Vec<u8> =
        (0..5_000_000_u32).map(|number| (number * 7 + number / 251) as u8).collect();
    guest.create("stdin", &["cat"]).await.unwrap();
    let process = init("stdin");
    guest.tasks.start(&process).await.unwrap();
    let feed = async {
        for chunk in data.chunks(MIB) {
            guest.write(&process, chunk).await.unwrap();
        }
        guest.tasks.close_io(&process).await.unwrap();
    };
    let ((), outcome) = tokio::join!(feed, guest.collect(&process));
    assert!(outcome.unwrap().stdout == data);

    // The end may come before the start, and input after it is refused.
    guest.create("closed", &["cat"]).await.unwrap();
    guest.tasks.close_io(&init("closed")).await.unwrap();
    assert!(guest.write(&init("closed"), b"late").await.is_err());
    assert_eq!(guest.finish(&init("closed")).await.unwrap().code, 0);
}

async fn terminal(guest: &Guest) {
    let mut bundle = Bundle::running("tty", &["sh", "-c", "tty; read x; stty size; echo got $x"]);
    bundle.spec["process"]["terminal"] = json!(true);
    guest.create_with("tty", &bundle, channels(true)).await.unwrap();
    let process = init("tty");
    guest.tasks.resize_pty(&process, WindowSize { width: 120, height: 40 }).await.unwrap();
    guest.tasks.start(&process).await.unwrap();
    guest.write(&process, b"word\n").await.unwrap();
    let outcome = guest.collect(&process).await.unwrap();
    let text = outcome.text().replace("word\r\n", "").replace('\r', "");
    assert_eq!((outcome.code, text.as_str()), (0, "/dev/pts/0\n40 120\ngot word"));
}

async fn terminal_exec(guest: &Guest) {
    guest.create("host", &["sleep", "1000"]).await.unwrap();
    guest.tasks_start("host").await;
    let mut spec = process(&["sh", "-c", "tty; stty size; sleep 1000"]);
    spec["terminal"] = json!(true);
    let process = exec("host", "tty");
    guest.add_exec(&process, spec, true).await.unwrap();
    guest.tasks.resize_pty(&process, WindowSize { width: 100, height: 30 }).await.unwrap();
    guest.tasks.start(&process).await.unwrap();
    let mut text = String::new();
    while !text.ends_with("100\r\n") {
        let answer = guest.read(&process, STREAM_STDOUT, text.len()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&answer.data));
    }
    assert_eq!(text.replace('\r', ""), "/dev/pts/0\n30 100\n");
    // The interrupt character: a terminal that controls the session.
    guest.write(&process, &[3]).await.unwrap();
    assert_eq!(guest.collect_from(&process, text.len()).await.unwrap().code, 130);
    guest.dispose("host").await;
}

async fn unread_output(guest: &Guest) {
    guest.create("loud", &["yes"]).await.unwrap();
    guest.tasks_start("loud").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let quiet = guest.run("quiet", &["echo", "heard"]).await;
    assert_eq!(quiet.text(), "heard");
    guest.tasks.kill(&init("loud"), Signal::KILL, KillScope::All).await.unwrap();
    // While it dies it still writes into whatever room a reader makes.
    guest.tasks.wait(&init("loud")).await.unwrap();
    let left = guest.collect(&init("loud")).await.unwrap();
    assert_eq!((left.code, left.stdout.len()), (137, 1 << 16));
}

/// The process ends, but what it has started keeps the stream.
async fn inherited_output(guest: &Guest) {
    guest.create("host", &["sleep", "1000"]).await.unwrap();
    guest.tasks_start("host").await;
    let process = exec("host", "parent");
    let spec = crate::bundle::process(&["sh", "-c", "echo early; (sleep 2; echo late) & exit 3"]);
    guest.add_exec(&process, spec, false).await.unwrap();
    guest.tasks.start(&process).await.unwrap();
    assert_eq!(guest.tasks.wait(&process).await.unwrap().code, 3);
    assert_eq!(guest.read_all(&process, STREAM_STDOUT).await, b"early\n");
    let late = guest.read_late(&process, STREAM_STDOUT, 6).await.unwrap();
    assert_eq!(late.data, b"late\n");
    assert!(guest.read_late(&process, STREAM_STDOUT, 11).await.unwrap().eof);
    assert!(guest.read_all(&process, STREAM_STDERR).await.is_empty());
    guest.dispose("host").await;
}
