//! The guest, as the host speaks to it: its agent over one ttrpc connection.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_api::{
    DialRequest, GuestClient, HangUpRequest, Identity, PROTOCOL_VERSION, ReadOutputRequest,
    ReadOutputResponse, ReceiveRequest, ResumeRequest, SendRequest, Stream, WatchRequest,
    WriteInputRequest,
};
use runtime_api::{Capabilities, Error, ProcessRef, Result, ResultExt, Runtime, SandboxId};
use runtime_task::{TaskClient, TtrpcTransport, convert, error_of};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

use crate::vmm::Vm;

/// What the agent of this version can do.
pub(crate) const GUEST_CAPABILITIES: Capabilities = Capabilities {
    exec: true,
    terminal: true,
    pause: true,
    update: true,
    stats: true,
    sandbox: false,
    attach: false,
    dial: false,
    checkpoint: false,
};

/// How many bytes of output are asked for at once: large enough for the channel's throughput, small
/// enough that a control call never waits long behind it.
const CREDIT: u32 = 256 << 10;

/// How long a guest may take for the first answer to a host that comes back.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

/// The longest host name (sethostname(2)).
const MAX_HOSTNAME: usize = 64;

/// The host's generator (random(4)).
const RANDOM: &str = "/dev/urandom";

/// Who a guest is. It is given once; a host that comes back has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestIdentity {
    pub(crate) sandbox: SandboxId,
    pub(crate) hostname: String,
    pub(crate) machine_id: [u8; 16],
}

impl GuestIdentity {
    /// A new identity, with the host name that is asked for, or else as much of the sandbox's id as
    /// fits.
    pub(crate) fn new(sandbox: &SandboxId, hostname: &str) -> Result<Self> {
        let id = sandbox.as_str();
        let hostname = match hostname {
            // Ids are ASCII, so every length is a boundary.
            "" => &id[..id.len().min(MAX_HOSTNAME)],
            given => given,
        };
        let mut machine_id = [0; 16];
        fill(&mut machine_id)?;
        Ok(Self { sandbox: sandbox.clone(), hostname: hostname.to_owned(), machine_id })
    }
}

/// How far a host is with an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// How many bytes it has passed on.
    pub(crate) offset: u64,
    /// Whether it knows that the process has ended and written no more.
    pub(crate) drained: bool,
}

/// The agent of one guest.
pub(crate) struct Guest {
    tasks: TaskClient<TtrpcTransport>,
    service: GuestClient,
    deadline: Duration,
}

impl Guest {
    /// Connects to the agent of `vm` and gives the guest its identity.
    pub(crate) async fn resume(
        vm: &dyn Vm,
        identity: &GuestIdentity,
        deadline: Duration,
    ) -> Result<Self> {
        let guest = Self::connect(vm, deadline).await?;
        guest.give_identity(identity).await?;
        Ok(guest)
    }

    /// Comes back to the agent of `vm`. One that has not noticed yet that its last host is gone throws
    /// away what the next one sends, and cannot say so: it is asked again, more and more patiently.
    pub(crate) async fn come_back(
        vm: &dyn Vm,
        identity: &GuestIdentity,
        deadline: Duration,
    ) -> Result<Self> {
        let mut patience = FIRST_PATIENCE;
        loop {
            let guest = Self::connect(vm, deadline).await?;
            let last = patience >= deadline;
            match tokio::time::timeout(patience, guest.give_identity(identity)).await {
                Ok(answer) => return answer.map(|()| guest),
                Err(_) if last => {
                    let message = format!("the guest did not answer Resume within {patience:?}");
                    return Err(Error::deadline_exceeded(message));
                }
                Err(_) => patience = deadline.min(2 * patience),
            }
        }
    }

    async fn connect(vm: &dyn Vm, deadline: Duration) -> Result<Self> {
        let client = Client::new(Socket::from(vm.connect().await?));
        let transport = TtrpcTransport::new(client.clone());
        Ok(Self {
            tasks: TaskClient::new(transport, GUEST_CAPABILITIES, deadline),
            service: GuestClient::new(client),
            deadline,
        })
    }

    async fn give_identity(&self, identity: &GuestIdentity) -> Result<()> {
        let request = resume_request(identity)?;
        let answer = self.service.resume(context::Context::default(), &request);
        let answer = self.within("Resume", answer).await?;
        log::info!(
            "guest of sandbox {}: kernel {}, agent {}",
            identity.sandbox,
            answer.kernel_release,
            answer.agent_version
        );
        Ok(())
    }

    /// The runtime inside the guest.
    pub(crate) fn tasks(&self) -> &dyn Runtime {
        &self.tasks
    }

    /// Takes what `process` has written, as soon as there is something to tell.
    pub(crate) async fn read_output(
        &self,
        process: &ProcessRef,
        stream: Stream,
        passed: Passed,
    ) -> Result<ReadOutputResponse> {
        let (id, exec_id) = convert::ids(process);
        let request = ReadOutputRequest {
            id,
            exec_id,
            stream: stream.into(),
            max: CREDIT,
            offset: passed.offset,
            knows_drained: passed.drained,
            ..Default::default()
        };
        // It waits for the process, so it ends with the process or with the guest.
        let answer = self.service.read_output(context::Context::default(), &request).await;
        answer.map_err(|error| error_of("ReadOutput", error))
    }

    /// Gives input to `process`; waits for as long as it does not read.
    pub(crate) async fn write_input(&self, process: &ProcessRef, data: Vec<u8>) -> Result<()> {
        let (id, exec_id) = convert::ids(process);
        let request = WriteInputRequest { id, exec_id, data, ..Default::default() };
        let answer = self.service.write_input(context::Context::default(), &request).await;
        answer.map(drop).map_err(|error| error_of("WriteInput", error))
    }

    /// Waits until the guest has something to tell, for at most `patience` and the time that it takes to
    /// answer, which is `grace` at the most. Names the containers that have run out of memory.
    pub(crate) async fn watch(&self, patience: Duration, grace: Duration) -> Result<Vec<String>> {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let request = WatchRequest { patience: milliseconds, ..Default::default() };
        let answer = self.service.watch(context::Context::default(), &request);
        match tokio::time::timeout(patience + grace, answer).await {
            Ok(answer) => {
                let answer = answer.map_err(|error| error_of("Watch", error))?;
                Ok(answer.out_of_memory)
            }
            Err(_) => {
                let silence = patience + grace;
                Err(Error::deadline_exceeded(format!("the guest was silent for {silence:?}")))
            }
        }
    }

    /// Connects to a port of the guest.
    pub(crate) async fn dial(self: &Arc<Self>, port: u16) -> Result<Connection> {
        let request = DialRequest { port: port.into(), ..Default::default() };
        let answer = self.service.dial(context::Context::default(), &request);
        let id = self.within("Dial", answer).await?.connection;
        Ok(Connection { guest: Arc::clone(self), id })
    }

    async fn within<T>(
        &self,
        call: &str,
        answer: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer.map_err(|error| error_of(call, error)),
            Err(_) => Err(Error::deadline_exceeded(format!(
                "the guest did not answer {call} within {:?}",
                self.deadline
            ))),
        }
    }
}

fn resume_request(identity: &GuestIdentity) -> Result<ResumeRequest> {
    let mut entropy = vec![0; 64];
    fill(&mut entropy)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let identity = Identity {
        sandbox: identity.sandbox.to_string(),
        hostname: identity.hostname.clone(),
        machine_id: identity.machine_id.to_vec(),
        ..Default::default()
    };
    Ok(ResumeRequest {
        version: PROTOCOL_VERSION,
        entropy,
        realtime: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        identity: Some(identity).into(),
        ..Default::default()
    })
}

/// Fills with random bytes of the host.
fn fill(bytes: &mut [u8]) -> Result<()> {
    File::open(RANDOM)
        .and_then(|mut file| file.read_exact(bytes))
        .internal(|| format!("read {RANDOM}"))
}

/// A connection to a port of a guest. It is closed when it is dropped.
pub(crate) struct Connection {
    guest: Arc<Guest>,
    id: u64,
}

impl Connection {
    /// Takes what has been received, as soon as there is something; nothing at its end.
    pub(crate) async fn receive(&self) -> Result<Vec<u8>> {
        let request = ReceiveRequest { connection: self.id, max: CREDIT, ..Default::default() };
        let answer = self.guest.service.receive(context::Context::default(), &request).await;
        answer.map(|answer| answer.data).map_err(|error| error_of("Receive", error))
    }

    /// Sends; waits for as long as the other side does not read.
    pub(crate) async fn send(&self, data: Vec<u8>) -> Result<()> {
        let request = SendRequest { connection: self.id, data, ..Default::default() };
        let answer = self.guest.service.send(context::Context::default(), &request).await;
        answer.map(drop).map_err(|error| error_of("Send", error))
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn end_sending(&self) -> Result<()> {
        hang_up(&self.guest, self.id, true).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (guest, id) = (Arc::clone(&self.guest), self.id);
        tokio::spawn(async move {
            if let Err(error) = hang_up(&guest, id, false).await {
                log::debug!("connection {id}: {}", error.chain());
            }
        });
    }
}

async fn hang_up(guest: &Guest, connection: u64, sending_only: bool) -> Result<()> {
    let request = HangUpRequest { connection, sending_only, ..Default::default() };
    let answer = guest.service.hang_up(context::Context::default(), &request);
    guest.within("HangUp", answer).await.map(drop)
}
