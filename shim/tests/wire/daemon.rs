//! A daemon as the shim sees it: how it calls the program, and what it asks the server.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse, ShutdownRequest, StateRequest};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use ttrpc::r#async::Client;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-vmrt-v2");

pub(crate) const TASK_V2: &str = "containerd.task.v2.Task";
pub(crate) const TASK_V3: &str = "containerd.task.v3.Task";

/// The daemons, by how they call the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Containerd16,
    Containerd17,
    Containerd20,
    Containerd23,
    Crio,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Containerd16,
        Self::Containerd17,
        Self::Containerd20,
        Self::Containerd23,
        Self::Crio,
    ];
}

/// One daemon, with an address that no other test has.
pub(crate) struct Daemon {
    kind: Kind,
    directory: TempDir,
}

/// What a successful `start` has answered.
pub(crate) struct Started {
    pub(crate) address: String,
    pub(crate) bundle: PathBuf,
}

impl Daemon {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn address(&self) -> String {
        match self.kind {
            Kind::Crio => String::new(),
            _ => self.path().join("containerd.sock").to_str().unwrap().to_owned(),
        }
    }

    /// CRI-O has no address to tell daemons apart; the namespace does it.
    pub(crate) fn namespace(&self) -> String {
        self.path().file_name().unwrap().to_str().unwrap().replace('.', "n")
    }

    /// The state directory that the shim chooses for this daemon and namespace.
    pub(crate) fn state_directory(&self) -> PathBuf {
        use sha2::{Digest, Sha256};
        let name = Sha256::digest(format!("{}/{}", self.address(), self.namespace()));
        let name: String = name[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Path::new("/run/vmrt").join(name)
    }

    /// Makes the bundle of a container. `spec` is its config.json.
    pub(crate) fn bundle(&self, id: &str, spec: Option<&str>) -> PathBuf {
        let bundle = self.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        if let Some(spec) = spec {
            fs::write(bundle.join("config.json"), spec).unwrap();
        }
        bundle
    }

    /// The program as this daemon calls it.
    pub(crate) fn command(&self, id: &str, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", &self.namespace(), "-address", &self.address()])
            .args(["-publish-binary", "/usr/bin/containerd", "-id", id])
            .current_dir(self.path().join(id))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GOMAXPROCS", "2");
        let events = format!("{}.ttrpc", self.address());
        match self.kind {
            Kind::Crio => command.env("TTRPC_ADDRESS", "").env("GRPC_ADDRESS", ""),
            Kind::Containerd16 => command.env("TTRPC_ADDRESS", events),
            _ => command
                .env("TTRPC_ADDRESS", events)
                .env("GRPC_ADDRESS", self.address())
                .env("MAX_SHIM_VERSION", if self.kind == Kind::Containerd17 { "2" } else { "3" })
                .env("NAMESPACE", self.namespace()),
        };
        if action == "delete" {
            command.arg("-bundle").arg(self.path().join(id));
        }
        command.arg(action);
        command
    }

    fn stdin(&self, id: &str) -> Vec<u8> {
        match self.kind {
            Kind::Crio | Kind::Containerd17 => Vec::new(),
            Kind::Containerd23 => BootstrapParams {
                instance_id: id.to_owned(),
                namespace: self.namespace(),
                containerd_version: "v2.3.4".to_owned(),
                containerd_grpc_address: self.address(),
                containerd_ttrpc_address: format!("{}.ttrpc", self.address()),
                socket_dir: Some(self.path().join("s").to_str().unwrap().to_owned()),
                ..Default::default()
            }
            .write_to_bytes()
            .unwrap(),
            Kind::Containerd16 | Kind::Containerd20 => Any {
                type_url: "runtimeoptions.v1.Options".to_owned(),
                value: b"\x0a\x04type".to_vec(),
                ..Default::default()
            }
            .write_to_bytes()
            .unwrap(),
        }
    }

    pub(crate) fn try_start(&self, id: &str) -> Output {
        feed(self.command(id, "start"), &self.stdin(id))
    }

    pub(crate) fn start(&self, id: &str, spec: Option<&str>) -> Started {
        let bundle = self.bundle(id, spec);
        let output = self.try_start(id);
        assert!(output.status.success(), "{output:?}");
        // containerd reads both streams as one: the address would not be one any more.
        assert_eq!(output.stderr, b"", "{:?}", self.kind);
        let address = match self.kind {
            Kind::Containerd23 => {
                let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
                assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
                result.address
            }
            _ => String::from_utf8(output.stdout).unwrap(),
        };
        assert!(address.starts_with("unix:///"), "{address}");
        assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), address);
        Started { address, bundle }
    }

    pub(crate) fn delete(&self, id: &str) -> Output {
        feed(self.command(id, "delete"), &[])
    }
}

impl Drop for Daemon {
    /// Leaves no socket and no state behind, however the test has gone; the servers are gone by now.
    fn drop(&mut self) {
        for entry in self.path().read_dir().into_iter().flatten().flatten() {
            if entry.path().join("address").exists() {
                let _ = self.command(&entry.file_name().to_string_lossy(), "delete").output();
            }
        }
    }
}

/// Runs a command with `input` on its standard input.
pub(crate) fn feed(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

impl Started {
    pub(crate) fn socket(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix://").unwrap())
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.address).await.unwrap()
    }

    pub(crate) async fn server(&self) -> Server {
        let response = connect(&self.client().await, TASK_V2).await;
        assert_eq!(response.task_pid, 0);
        Server(Pid::from_raw(response.shim_pid.cast_signed()))
    }
}

async fn call(
    client: &Client,
    service: &str,
    method: &str,
    message: &impl Message,
) -> ttrpc::Result<Vec<u8>> {
    let request = ttrpc::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: message.write_to_bytes().unwrap(),
        timeout_nano: 5_000_000_000,
        ..Default::default()
    };
    client.request(request).await.map(|response| response.payload)
}

pub(crate) async fn connect(client: &Client, service: &str) -> ConnectResponse {
    let request = ConnectRequest { id: "unknown".to_owned(), ..Default::default() };
    let payload = call(client, service, "Connect", &request).await.unwrap();
    ConnectResponse::parse_from_bytes(&payload).unwrap()
}

pub(crate) async fn state_code(client: &Client, service: &str) -> ttrpc::Code {
    let request = StateRequest { id: "unknown".to_owned(), ..Default::default() };
    match call(client, service, "State", &request).await {
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn shutdown(client: &Client) {
    let request = ShutdownRequest { id: "unknown".to_owned(), ..Default::default() };
    call(client, TASK_V2, "Shutdown", &request).await.unwrap();
}

/// A server process. It is killed in the end, however the test goes.
pub(crate) struct Server(pub(crate) Pid);

impl Server {
    pub(crate) fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(file)
    }

    fn lives(&self) -> bool {
        // Nobody may reap it here: a zombie is as good as gone.
        fs::read_to_string(self.proc("stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.0, signal).unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) fn ended(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.lives() {
            assert!(Instant::now() < deadline, "server {} is still there", self.0);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = fs::read_link(self.proc("exe")).is_ok_and(|path| path == Path::new(SHIM));
        if ours && self.lives() {
            let _ = kill(self.0, Signal::SIGKILL);
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.lives() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
