//! The life of a sandbox through the table.

use conformance::{Bundle, process};
use runtime_api::{
    ErrorKind, EventKind, Exec, ExecId, Json, KillScope, ProcessRef, Runtime, Signal, Status, Stdio,
};
use std::future::poll_fn;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Case;
use crate::place::{Place, dispose, init, sandbox, start};

pub(crate) const CASES: &[Case] = &[
    ("create, start, exec, stats, dial, stop, delete", whole_life),
    ("two containers share a sandbox, which ends with the last", two_in_a_sandbox),
    ("a deleted container's ref does not find its successor", stale_handle),
    ("a call that is given up does not stop the work", given_up),
    ("a creation that fails leaves nothing", failed_creation),
];

fn whole_life(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    let script = "echo started; nc -l -p 7000 -e /bin/cat & trap 'exit 7' TERM; while true; do sleep 0.1; done";
    place.run(async {
        let mut events = runtime.events().unwrap();
        let created = start(&*runtime, place.request(&id, &Bundle::running(&["sh", "-c", script])))
            .await
            .unwrap();
        assert!(created.handle.key.is_some() && !created.handle.token.0.is_empty());
        let state = runtime.state(&init(&id)).await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Running, created.pid));

        let exec = Exec {
            container: created.handle.container.clone(),
            id: ExecId::parse("e").unwrap(),
            process: Json(process(&["sh", "-c", "exit 5"]).to_string().into_bytes()),
            stdio: Stdio::default(),
        };
        let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(30)));
        assert_eq!(runtime.exec_sync(exec, deadline).await.unwrap().code, 5);

        let stats = runtime.stats(&created.handle.container).await.unwrap();
        assert!(stats.memory.usage > 0 && stats.pids.current >= 1, "{stats:?}");
        echoes(&*runtime, &id).await;

        let deadline = Box::pin(tokio::time::sleep(Duration::from_secs(30)));
        assert_eq!(runtime.stop(&init(&id), deadline).await.unwrap().code, 7);
        assert_eq!(runtime.delete(&init(&id)).await.unwrap().code, 7);
        let gone = runtime.state(&init(&id)).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);

        let mut seen = Vec::new();
        while !seen.iter().any(|kind| matches!(kind, EventKind::Delete { .. })) {
            let event = poll_fn(|context| events.as_mut().poll_next(context)).await.unwrap();
            assert_eq!(event.container.as_str(), id);
            seen.push(event.kind);
        }
        assert!(
            matches!(
                seen.as_slice(),
                [
                    EventKind::Create { .. },
                    EventKind::Start { .. },
                    EventKind::ExecAdded { .. },
                    EventKind::ExecStarted { .. },
                    EventKind::Exit { exec: Some(_), .. },
                    EventKind::Exit { exec: None, .. },
                    EventKind::Delete { .. },
                ]
            ),
            "{seen:?}"
        );
    });
    assert_eq!(place.text(&id), "started\n");
    place.is_clean();
}

/// What goes to port 7000 of the sandbox comes back, and each direction ends by itself.
async fn echoes(runtime: &dyn Runtime, id: &str) {
    let refused = runtime.dial(&sandbox(id), 7001).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let socket = loop {
        match runtime.dial(&sandbox(id), 7000).await {
            Ok(socket) => break socket,
            // It may not listen yet.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{}", error.chain()),
        }
    };
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    let (mut reader, mut writer) = tokio::net::UnixStream::from_std(stream).unwrap().into_split();
    let sent: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let (sending, receiving) = (sent.clone(), async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.map(|_| received)
    });
    let (received, ()) = tokio::join!(receiving, async {
        writer.write_all(&sending).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    assert!(received.unwrap() == sent);
}

fn two_in_a_sandbox(place: &Place) {
    let runtime = place.open();
    let (pod, app) = (place.id("pod"), place.id("app"));
    place.run(async {
        let sleeping = || Bundle::running(&["sleep", "1000"]);
        let first = start(&*runtime, place.request(&pod, &sleeping())).await.unwrap();
        let request = place.request(&app, &sleeping().in_sandbox(&pod));
        let second = start(&*runtime, request).await.unwrap();
        assert_eq!(first.pid, second.pid);
        assert_eq!(place.vmms().len(), 1);
        dispose(&*runtime, &pod).await;
        assert_eq!(runtime.state(&init(&app)).await.unwrap().status, Status::Running);
        dispose(&*runtime, &app).await;
    });
    place.is_clean();
}

fn stale_handle(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        let sleeping = Bundle::running(&["sleep", "1000"]);
        let old = start(&*runtime, place.request(&id, &sleeping)).await.unwrap().handle;
        dispose(&*runtime, &id).await;
        std::fs::remove_dir_all(place.root.join(&id)).unwrap();
        let new = start(&*runtime, place.request(&id, &sleeping)).await.unwrap().handle;
        assert_ne!(old.key, new.key);
        let gone = runtime.attach(&old.token).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        assert_eq!(runtime.attach(&new.token).await.unwrap(), new);
        dispose(&*runtime, &id).await;
    });
    place.is_clean();
}

fn given_up(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        let creating = runtime.create_container(place.request(&id, &Bundle::running(&["true"])));
        let given_up = tokio::time::timeout(Duration::from_millis(20), creating).await;
        assert!(given_up.is_err(), "it was done too early");
        // It goes on, and can be deleted at any time.
        if let Err(error) = runtime.delete(&init(&id)).await {
            let gone = matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::NotFound);
            assert!(gone, "{}", error.chain());
        }
        let state = runtime.state(&init(&id)).await.unwrap_err();
        assert_eq!(state.kind(), ErrorKind::NotFound);
    });
    place.is_clean();
}

fn failed_creation(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        let nope = Bundle::running(&["/nope"]);
        let error = runtime.create_container(place.request(&id, &nope)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.chain().contains("/nope"), "{}", error.chain());
        let unknown = ProcessRef::init(runtime_api::ContainerId::parse("unknown").unwrap());
        let error = runtime.kill(&unknown, Signal::TERM, KillScope::Process).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
    place.is_clean();
}
