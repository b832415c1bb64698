//! A daemon that ends, and comes back.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conformance::{Bundle, HostProcess};
use runtime_api::{ErrorKind, KillScope, Signal, Status, Token};

use crate::Case;
use crate::place::{Place, becomes, dispose, init};

pub(crate) const CASES: &[Case] = &[
    ("a daemon is killed with output flowing: nothing is lost", output_goes_on),
    ("what is in a pipe when its daemon is killed is still in it after that", pipe_goes_on),
    ("an exit while no daemon is there keeps its code", exit_meanwhile),
    ("five sandboxes are attached to within their time", five_sandboxes),
    ("a container that was only created survives and can be started", created_only),
    ("a VM that died meanwhile answers NotFound, and nothing is left", dead_meanwhile),
    ("a daemon that is killed while a VM starts leaves nothing for good", killed_early),
    ("a sandbox that its daemon cannot have heard of is removed", unheard_of),
    ("what is no token is refused", no_token),
];

/// A daemon of another process.
struct Daemon {
    child: Child,
    tokens: HashMap<String, Token>,
}

impl Daemon {
    /// Starts one with these containers: their ids and what they run.
    fn start(place: &Place, mode: &str, containers: &[(&str, &[&str])]) -> Self {
        let file = |id: &str| format!("file://{}", place.output(id).display());
        Self::start_with(place, mode, containers, file)
    }

    /// As [`start`](Self::start), with the output of each container to where `output` says.
    fn start_with(
        place: &Place,
        mode: &str,
        containers: &[(&str, &[&str])],
        output: impl Fn(&str) -> String,
    ) -> Self {
        let mut host = Command::new(crate::hosts::host(place));
        host.arg(mode).arg(place.library()).arg(place.config()).arg(place.state_dir());
        for (id, words) in containers {
            let bundle = place.bundle(id, &Bundle::running(words));
            host.arg(id).arg(bundle).arg(output(id));
        }
        let mut child = host.stdout(Stdio::piped()).spawn().unwrap();
        let mut tokens = HashMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["token", id, hex] => drop(tokens.insert((*id).to_owned(), Token(from_hex(hex)))),
                ["ready"] => return Self { child, tokens },
                other => panic!("the daemon says {other:?}"),
            }
        }
        panic!("the daemon has ended: {:?}", child.wait());
    }

    /// Ends it as a crash does, and answers the tokens that it has stored.
    fn crash(mut self) -> HashMap<String, Token> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::take(&mut self.tokens)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn vmm(place: &Place) -> HostProcess {
    let vmms = place.vmms();
    assert_eq!(vmms.len(), 1, "{vmms:?}");
    vmms.into_iter().next().unwrap()
}

fn output_goes_on(place: &Place) {
    let id = place.id("c");
    // Lines with their number, as fast as they are taken.
    let words: &[&str] = &["seq", "1", "2000000"];
    let daemon = Daemon::start(place, "hold", &[(&id, words)]);
    let enough = || place.text(&id).len() > 1_000_000;
    place.run(becomes("there is some output", enough));
    let tokens = daemon.crash();
    let vmm = vmm(place).pid;
    let before = place.text(&id).len();
    let runtime = place.open();
    place.run(async {
        let handle = runtime.attach(&tokens[&id]).await.unwrap();
        assert!(handle.key.is_some());
        assert_eq!(runtime.state(&init(&id)).await.unwrap().pid.0, vmm);
        assert_eq!(runtime.wait(&init(&id)).await.unwrap().code, 0);
        runtime.delete(&init(&id)).await.unwrap();
    });
    assert!(before < place.text(&id).len(), "all of it had come before");
    assert_whole(&place.text(&id), 2_000_000);
    place.is_clean();
}

fn pipe_goes_on(place: &Place) {
    let id = place.id("c");
    let path = place.root.join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Nobody reads: the pipe is full, and the process waits.
    let words: &[&str] = &["seq", "1", "100000"];
    let daemon = Daemon::start_with(place, "hold", &[(&id, words)], |_| path.display().to_string());
    std::thread::sleep(Duration::from_secs(1));
    let tokens = daemon.crash();
    // It had no other end, and yet.
    let runtime = place.open();
    let text = place.run(async {
        runtime.attach(&tokens[&id]).await.unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            let mut reader = BufReader::new(std::fs::File::open(path).unwrap());
            while !text.ends_with("\n100000\n") {
                assert!(reader.read_line(&mut text).unwrap() > 0, "{} bytes came", text.len());
            }
            text
        });
        let text = reading.await.unwrap();
        assert_eq!(runtime.wait(&init(&id)).await.unwrap().code, 0);
        runtime.delete(&init(&id)).await.unwrap();
        text
    });
    assert_whole(&text, 100_000);
    place.is_clean();
}

/// Every number is there, in order. What was under way in the moment of the kill may be there twice,
/// in one piece.
fn assert_whole(text: &str, last: u32) {
    let expected: String = (1..=last).map(|number| format!("{number}\n")).collect();
    if text == expected {
        return;
    }
    let same = text.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
    let again = text.len() - expected.len();
    assert!(again > 0 && again <= 1 << 20, "{again} bytes more than {}", expected.len());
    assert_eq!(&text[same + again..], &expected[same..], "it is not one piece");
}

fn exit_meanwhile(place: &Place) {
    let id = place.id("c");
    let script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last words; exit 42";
    let daemon = Daemon::start(
        place,
        "hold",
        &[(&id, &["sh", "-c", &format!("sleep 1; touch() {{ : >$1; }}; touch /tmp/go; {script}")])],
    );
    let tokens = daemon.crash();
    std::thread::sleep(Duration::from_secs(3));
    let runtime = place.open();
    place.run(async {
        runtime.attach(&tokens[&id]).await.unwrap();
        assert_eq!(runtime.wait(&init(&id)).await.unwrap().code, 42);
        let state = runtime.state(&init(&id)).await.unwrap();
        assert_eq!((state.status, state.exit.map(|exit| exit.code)), (Status::Stopped, Some(42)));
        runtime.delete(&init(&id)).await.unwrap();
    });
    assert_eq!(place.text(&id), "last words\n");
    place.is_clean();
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn five_sandboxes(place: &Place) {
    let ids: Vec<_> = (0..5).map(|number| place.id(&format!("c{number}-"))).collect();
    let sleeping: &[&str] = &["sleep", "1000"];
    let containers: Vec<_> = ids.iter().map(|id| (id.as_str(), sleeping)).collect();
    let tokens = Daemon::start(place, "hold", &containers).crash();
    let runtime = place.open();
    place.run(async {
        let began = Instant::now();
        let attaching: Vec<_> = ids
            .iter()
            .map(|id| {
                let (runtime, token) = (runtime.clone(), tokens[id].clone());
                tokio::spawn(async move { runtime.attach(&token).await })
            })
            .collect();
        for attached in attaching {
            attached.await.unwrap().unwrap();
        }
        let took = began.elapsed();
        println!("five sandboxes attached to in {took:?}");
        // 200 ms on a quiet machine; others may compete for the two processors of this one.
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        for id in &ids {
            assert_eq!(runtime.state(&init(id)).await.unwrap().status, Status::Running);
            dispose(&*runtime, id).await;
        }
    });
    place.is_clean();
}

fn created_only(place: &Place) {
    let id = place.id("c");
    let tokens = Daemon::start(place, "made", &[(&id, &["sh", "-c", "echo late; exit 3"])]).crash();
    let runtime = place.open();
    place.run(async {
        let handle = runtime.attach(&tokens[&id]).await.unwrap();
        assert_eq!(runtime.attach(&tokens[&id]).await.unwrap(), handle);
        assert_eq!(runtime.state(&init(&id)).await.unwrap().status, Status::Created);
        runtime.start(&init(&id)).await.unwrap();
        assert_eq!(runtime.wait(&init(&id)).await.unwrap().code, 3);
        runtime.delete(&init(&id)).await.unwrap();
    });
    assert_eq!(place.text(&id), "late\n");
    place.is_clean();
}

fn dead_meanwhile(place: &Place) {
    let (before, after) = (place.id("b"), place.id("a"));
    let sleeping: &[&str] = &["sleep", "1000"];
    let daemon = Daemon::start(place, "hold", &[(&before, sleeping), (&after, sleeping)]);
    let vmm_of = |id: &str| {
        let mut vmms = place.vmms().into_iter();
        vmms.find(|one| one.command.contains(&format!("/{id}/"))).unwrap()
    };
    let tokens = daemon.crash();
    vmm_of(&before).signal("KILL");
    let second = || place.vmms().len() == 1;
    place.run(becomes("one VM is gone", second));
    let runtime = place.open();
    place.run(async {
        // One had died before the library was opened, the other dies after that.
        vmm_of(&after).signal("KILL");
        becomes("the other VM is gone", || place.vmms().is_empty()).await;
        for id in [&before, &after] {
            let gone = runtime.attach(&tokens[id]).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound, "{}", gone.chain());
            let unknown = runtime.kill(&init(id), Signal::TERM, KillScope::Process).await;
            assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
        }
    });
    place.is_clean();
}

fn killed_early(place: &Place) {
    // The template is there already, or made here: what follows is about a clone.
    let id = place.id("c");
    drop(Daemon::start(place, "hold", &[(&id, &["sleep", "1000"])]).crash());
    let early = place.id("early");
    let bundle = place.bundle(&early, &Bundle::running(&["sleep", "1000"]));
    let mut host = Command::new(crate::hosts::host(place));
    host.arg("hold").arg(place.library()).arg(place.config()).arg(place.state_dir());
    host.arg(&early).arg(bundle).arg("");
    let mut child = host.stdout(Stdio::null()).spawn().unwrap();
    place.run(becomes("the VM is started", || {
        place.vmms().iter().any(|one| one.command.contains(&format!("/{early}/")))
    }));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(place.open());
    assert!(!place.state_dir().join(&early).exists());
    assert!(!place.vmms().iter().any(|one| one.command.contains(&format!("/{early}/"))));
}

fn unheard_of(place: &Place) {
    let id = place.id("c");
    drop(Daemon::start(place, "made", &[(&id, &["sleep", "1000"])]).crash());
    // As if it had been killed before the creation was answered.
    let record = place.state_dir().join(&id).join("processes").join(format!("{id}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    let unfinished = text.replace("\"created\":true", "\"created\":false");
    assert_ne!(text, unfinished);
    std::fs::write(&record, unfinished).unwrap();
    drop(place.open());
    place.is_clean();
}

fn no_token(place: &Place) {
    let runtime = place.open();
    place.run(async {
        for bytes in [&b""[..], b"vmrt-1", b"vmrt-1 a b c d", &[0; 1000], b"vmrt-9 a b 1 2"] {
            let error = runtime.attach(&Token(bytes.to_vec())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let unknown = runtime.attach(&Token(b"vmrt-1 pod app 1 2".to_vec())).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotFound);
    });
    place.is_clean();
}
