//! The guest, as the host speaks to it: its agent over one ttrpc connection.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_api::{GuestClient, Identity, PROTOCOL_VERSION, ReadOutputRequest, ReadOutputResponse};
use guest_api::{ResumeRequest, Stream, WriteInputRequest};
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

/// The longest host name (sethostname(2)).
const MAX_HOSTNAME: usize = 64;

/// The host's generator (random(4)).
const RANDOM: &str = "/dev/urandom";

/// Who a guest is.
pub(crate) struct GuestIdentity<'a> {
    pub(crate) sandbox: &'a SandboxId,
    pub(crate) hostname: &'a str,
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
        identity: GuestIdentity<'_>,
        deadline: Duration,
    ) -> Result<Self> {
        let socket = vm.connect().await?;
        let client = Client::new(Socket::from(socket));
        let transport = TtrpcTransport::new(client.clone());
        let guest = Self {
            tasks: TaskClient::new(transport, GUEST_CAPABILITIES, deadline),
            service: GuestClient::new(client),
            deadline,
        };
        let request = resume_request(identity)?;
        let answer = guest.service.resume(context::Context::default(), &request);
        let answer = guest.within("Resume", answer).await?;
        log::info!(
            "guest of sandbox {}: kernel {}, agent {}",
            request.identity.sandbox,
            answer.kernel_release,
            answer.agent_version
        );
        Ok(guest)
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
    ) -> Result<ReadOutputResponse> {
        let (id, exec_id) = convert::ids(process);
        let request = ReadOutputRequest {
            id,
            exec_id,
            stream: stream.into(),
            max: CREDIT,
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

/// The host name that is asked for, or else as much of the sandbox's id as fits.
fn hostname<'a>(identity: &GuestIdentity<'a>) -> &'a str {
    match identity.hostname {
        // Ids are ASCII, so every length is a boundary.
        "" => &identity.sandbox.as_str()[..identity.sandbox.as_str().len().min(MAX_HOSTNAME)],
        given => given,
    }
}

fn resume_request(identity: GuestIdentity<'_>) -> Result<ResumeRequest> {
    let mut entropy = vec![0; 64];
    let mut machine_id = vec![0; 16];
    for bytes in [&mut entropy, &mut machine_id] {
        File::open(RANDOM)
            .and_then(|mut file| file.read_exact(bytes))
            .internal(|| format!("read {RANDOM}"))?;
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let identity = Identity {
        sandbox: identity.sandbox.to_string(),
        hostname: hostname(&identity).to_owned(),
        machine_id,
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
