use std::future::poll_fn;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::ShutdownRequest;
use containerd_shim_protos::protobuf::Message;
use tokio::task::JoinHandle;
use ttrpc::Request;
use ttrpc::r#async::Client;

use super::*;
use crate::testing::{StubRuntime, sandbox};

struct Case {
    directory: tempfile::TempDir,
    runtime: Arc<StubRuntime>,
    server: JoinHandle<Result<()>>,
}

fn service(runtime: &Arc<StubRuntime>, socket: &Path) -> Service {
    Service {
        runtime: Arc::clone(runtime) as Arc<dyn Runtime>,
        sandbox: sandbox("pod"),
        destination: Destination { address: String::new(), namespace: "default".to_owned() },
        socket: SocketFile::of(socket.to_owned()),
    }
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = StdListener::bind(&path).unwrap();
        let runtime = StubRuntime::new();
        let server = tokio::spawn(service(&runtime, &path).run(listener));
        Self { directory, runtime, server }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    async fn client(&self) -> Client {
        Client::connect(&format!("unix://{}", self.socket().display())).await.unwrap()
    }

    async fn left(self) {
        timeout(2 * FIRST_CONNECTION_DEADLINE, self.server).await.unwrap().unwrap().unwrap();
        assert!(!self.directory.path().join("socket").exists());
    }
}

async fn call(client: &Client, method: &str) -> ttrpc::Result<()> {
    let request = Request {
        service: "containerd.task.v2.Task".to_owned(),
        method: method.to_owned(),
        payload: ShutdownRequest { id: "app".into(), ..Default::default() }
            .write_to_bytes()
            .unwrap(),
        ..Default::default()
    };
    client.request(request).await.map(drop)
}

#[tokio::test]
async fn shutdown_is_answered_and_then_the_server_leaves() {
    let case = Case::new();
    call(&case.client().await, "Shutdown").await.unwrap();
    // Who starts a server now must not find the one that leaves.
    assert!(!case.socket().exists());
    case.left().await;
}

#[tokio::test]
async fn shutdown_is_no_end_while_the_sandbox_lives() {
    let case = Case::new();
    case.runtime.set_pod(Some(&["other"]));
    let client = case.client().await;
    call(&client, "Shutdown").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    call(&client, "Connect").await.unwrap();
    case.runtime.set_pod(None);
    call(&client, "Shutdown").await.unwrap();
    case.left().await;
}

#[tokio::test]
async fn a_release_ends_the_sandbox_and_reports_it() {
    let runtime = StubRuntime::new();
    runtime.set_pod(Some(&["pause", "app"]));
    let service = service(&runtime, Path::new("/nonexistent"));
    service.release().await;
    assert!(!runtime.has_pod());
    let mut events = runtime.events().unwrap();
    for expected in ["app", "pause"] {
        let event = poll_fn(|context| events.as_mut().poll_next(context)).await.unwrap();
        assert_eq!(event.container.as_str(), expected);
    }
    service.release().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_comes_to_leaves() {
    let case = Case::new();
    let begin = tokio::time::Instant::now();
    case.left().await;
    assert!(begin.elapsed() >= FIRST_CONNECTION_DEADLINE);
}
