//! A guest under QEMU and the host's end of its port.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use guest_api::{
    GuestClient, ReadOutputRequest, ResumeRequest, Stream, WriteInputRequest, WriteInputResponse,
};
use runtime_api::{
    Capabilities, ContainerId, CreateContainer, Created, Endpoint, Exec, ExecId, ExitStatus, Json,
    ProcessRef, Result, Runtime, RuntimeOptions, Signal, Stdio as Streams,
};
use runtime_task::{TaskClient, TtrpcTransport};
use serde_json::Value;
use tokio::net::UnixStream;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

use crate::bundle::Bundle;

const BOOT_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(60);
const COMMAND_LINE: &str =
    "console=ttyS0 quiet loglevel=0 reboot=t panic=-1 no_timer_check tsc=reliable";

pub(crate) struct Guest {
    qemu: Child,
    directory: tempfile::TempDir,
    pub(crate) tasks: TaskClient<TtrpcTransport>,
    pub(crate) service: GuestClient,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

/// What has come out of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

pub(crate) fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_DEADLINE)
}

pub(crate) fn id(id: &str) -> ContainerId {
    ContainerId::parse(id).unwrap()
}

pub(crate) fn init(container: &str) -> ProcessRef {
    ProcessRef::init(id(container))
}

pub(crate) fn exec(container: &str, exec: &str) -> ProcessRef {
    ProcessRef::exec(id(container), ExecId::parse(exec).unwrap())
}

pub(crate) fn channels(terminal: bool) -> Streams {
    let channel = || Endpoint::Channel;
    let stderr = if terminal { Endpoint::Null } else { channel() };
    Streams { stdin: channel(), stdout: channel(), stderr, terminal }
}

impl Guest {
    /// Boots a guest and gives it an identity.
    pub(crate) async fn boot(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("share")).unwrap();
        let console = std::fs::File::create(directory.path().join("console")).unwrap();
        let port = directory.path().join("agent.sock");
        let share = directory.path().join("share");
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35,smm=off,sata=off,smbus=off,usb=off,hpet=off"])
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max,erms=off",
                "-m",
                "512",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-serial", "stdio", "-append", COMMAND_LINE])
            .arg("-kernel")
            .arg(image.join("vmlinux"))
            .arg("-initrd")
            .arg(image.join("initramfs.img"))
            .args(["-device", "virtio-serial-pci", "-chardev"])
            .arg(format!("socket,id=agent,path={},server=on,wait=off", port.display()))
            .args(["-device", "virtserialport,chardev=agent,name=vmrt.agent", "-fsdev"])
            .arg(format!(
                "local,id=share,path={},security_model=passthrough,multidevs=remap",
                share.display()
            ))
            .args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"])
            .args(["-device", "virtio-rng-pci"])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let client = connect(&port).await;
        let (tasks, service) = clients(client);
        let guest = Self { qemu, directory, tasks, service };
        if let Err(error) = guest.resume("pod").await {
            panic!("resume: {error:?}; console: {}", guest.console());
        }
        guest
    }

    /// Leaves the port and comes back, as another host would.
    pub(crate) async fn reconnect(&mut self) {
        self.disconnect().await;
        (self.tasks, self.service) = clients(connect(&self.port()).await);
    }

    pub(crate) async fn disconnect(&mut self) {
        let nobody = UnixStream::pair().unwrap().0;
        (self.tasks, self.service) = clients(Client::new(Socket::new(nobody)));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    pub(crate) fn port(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn console(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }

    pub(crate) async fn resume(&self, sandbox: &str) -> ttrpc::Result<guest_api::ResumeResponse> {
        let mut request = ResumeRequest::new();
        request.version = guest_api::PROTOCOL_VERSION;
        request.entropy = vec![42; 64];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        request.realtime = now.as_nanos() as u64;
        let identity = request.identity.mut_or_insert_default();
        identity.sandbox = sandbox.into();
        identity.hostname = "the-guest".into();
        identity.machine_id = vec![7; 16];
        tokio::time::timeout(BOOT_DEADLINE, self.service.resume(context(), &request)).await.unwrap()
    }

    pub(crate) fn bundle_path(&self, id: &str) -> PathBuf {
        self.directory.path().join("share").join(id)
    }

    pub(crate) async fn create_with(
        &self,
        name: &str,
        bundle: &Bundle,
        stdio: Streams,
    ) -> Result<Created> {
        bundle.write(&self.bundle_path(name));
        let request = CreateContainer {
            id: id(name),
            sandbox: None,
            bundle: Path::new("/run/vmrt/share").join(name),
            rootfs: Vec::new(),
            stdio,
            options: RuntimeOptions::default(),
        };
        self.tasks.create_container(request).await
    }

    pub(crate) async fn create(&self, name: &str, args: &[&str]) -> Result<Created> {
        self.create_with(name, &Bundle::running(name, args), channels(false)).await
    }

    pub(crate) async fn add_exec(
        &self,
        of: &ProcessRef,
        process: Value,
        terminal: bool,
    ) -> Result<()> {
        let request = Exec {
            container: of.container.clone(),
            id: of.exec.clone().unwrap(),
            process: Json(process.to_string().into_bytes()),
            stdio: channels(terminal),
        };
        self.tasks.exec(request).await
    }

    /// Starts a created process, takes all it writes, and deletes it.
    pub(crate) async fn finish(&self, process: &ProcessRef) -> Result<Outcome> {
        self.tasks.start(process).await?;
        self.collect(process).await
    }

    pub(crate) async fn collect(&self, process: &ProcessRef) -> Result<Outcome> {
        self.collect_from(process, 0).await
    }

    /// As [`collect`](Self::collect), when the first bytes of the output have been taken.
    pub(crate) async fn collect_from(&self, process: &ProcessRef, taken: usize) -> Result<Outcome> {
        let (stdout, stderr, exit) = tokio::join!(
            self.read_from(process, Stream::STREAM_STDOUT, taken),
            self.read_all(process, Stream::STREAM_STDERR),
            self.tasks.wait(process)
        );
        let ExitStatus { code, .. } = exit?;
        assert_eq!(self.tasks.delete(process).await?.code, code);
        Ok(Outcome { code, stdout, stderr })
    }

    /// Runs a container from its creation to its deletion.
    pub(crate) async fn run(&self, name: &str, args: &[&str]) -> Outcome {
        self.run_bundle(name, &Bundle::running(name, args)).await
    }

    pub(crate) async fn run_bundle(&self, name: &str, bundle: &Bundle) -> Outcome {
        self.create_with(name, bundle, channels(false)).await.unwrap_or_else(|error| {
            panic!("create {name}: {}; console: {}", error.chain(), self.console())
        });
        self.finish(&init(name)).await.unwrap()
    }

    /// Runs an exec from its creation to its deletion.
    pub(crate) async fn run_exec(&self, process: &ProcessRef, spec: Value) -> Result<Outcome> {
        self.add_exec(process, spec, false).await?;
        self.finish(process).await
    }

    /// Takes output until the process has exited and all it wrote has been taken.
    pub(crate) async fn read_all(&self, process: &ProcessRef, stream: Stream) -> Vec<u8> {
        self.read_from(process, stream, 0).await
    }

    async fn read_from(&self, process: &ProcessRef, stream: Stream, taken: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let answer = self.read(process, stream, taken + all.len()).await.unwrap();
            all.extend_from_slice(&answer.data);
            if answer.eof || answer.drained {
                return all;
            }
        }
    }

    pub(crate) async fn read(
        &self,
        process: &ProcessRef,
        stream: Stream,
        offset: usize,
    ) -> ttrpc::Result<guest_api::ReadOutputResponse> {
        self.service.read_output(context(), &read_request(process, stream, offset)).await
    }

    /// Takes output that comes after the process has ended.
    pub(crate) async fn read_late(
        &self,
        process: &ProcessRef,
        stream: Stream,
        offset: usize,
    ) -> ttrpc::Result<guest_api::ReadOutputResponse> {
        let mut request = read_request(process, stream, offset);
        request.knows_drained = true;
        self.service.read_output(context(), &request).await
    }

    pub(crate) async fn write(
        &self,
        process: &ProcessRef,
        data: &[u8],
    ) -> ttrpc::Result<WriteInputResponse> {
        let mut request = WriteInputRequest::new();
        request.id = process.container.to_string();
        request.exec_id = process.exec.as_ref().map(ToString::to_string).unwrap_or_default();
        request.data = data.to_vec();
        self.service.write_input(context(), &request).await
    }

    /// Kills and deletes a container.
    pub(crate) async fn dispose(&self, name: &str) {
        let process = init(name);
        let _ = self.tasks.kill(&process, Signal::KILL, runtime_api::KillScope::All).await;
        self.tasks.wait(&process).await.unwrap();
        self.tasks.delete(&process).await.unwrap();
    }
}

fn read_request(process: &ProcessRef, stream: Stream, offset: usize) -> ReadOutputRequest {
    let mut request = ReadOutputRequest::new();
    request.id = process.container.to_string();
    request.exec_id = process.exec.as_ref().map(ToString::to_string).unwrap_or_default();
    request.stream = stream.into();
    request.max = 1 << 20;
    request.offset = offset as u64;
    request
}

fn clients(client: Client) -> (TaskClient<TtrpcTransport>, GuestClient) {
    let transport = TtrpcTransport::new(client.clone());
    let tasks = TaskClient::new(transport, Capabilities::default(), CALL_DEADLINE);
    (tasks, GuestClient::new(client))
}

async fn connect(port: &Path) -> Client {
    let connect = async {
        loop {
            match UnixStream::connect(port).await {
                Ok(stream) => return Client::new(Socket::new(stream)),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(BOOT_DEADLINE, connect).await.unwrap()
}
