//! The guest-only service (`guest-api/proto/guest.proto`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use guest_api::{
    DialRequest, DialResponse, Guest, HangUpRequest, HangUpResponse, MAX_CHUNK, PROTOCOL_VERSION,
    ReadOutputRequest, ReadOutputResponse, ReceiveRequest, ReceiveResponse, ResumeRequest,
    ResumeResponse, SendRequest, SendResponse, Stream, WatchRequest, WatchResponse,
    WriteInputRequest, WriteInputResponse,
};
use runtime_api::{ContainerId, Error, ExecId, ProcessRef, Result, ResultExt};
use runtime_task::status_of;
use ttrpc::r#async::TtrpcContext;

use crate::LinuxRuntime;
use crate::connections::Connections;
use crate::gate::Gate;
use crate::identity::{self, Identity, Prepared};
use crate::oom::Bulletin;
use crate::streams::{Chunk, Output, Wanted};

/// Serves what the Task service has no words for.
pub struct GuestService {
    runtime: Arc<LinuxRuntime>,
    gate: Arc<Gate>,
    prepared: Prepared,
    connections: Connections,
    bulletin: Arc<Bulletin>,
}

impl GuestService {
    pub(crate) fn new(runtime: Arc<LinuxRuntime>, gate: Arc<Gate>) -> Result<Self> {
        let (connections, bulletin) = (Connections::default(), Arc::default());
        Ok(Self { runtime, gate, prepared: Prepared::prepare()?, connections, bulletin })
    }

    /// What [`Guest::watch`] tells.
    pub(crate) fn bulletin(&self) -> &Arc<Bulletin> {
        &self.bulletin
    }

    fn resume_as(&self, request: &ResumeRequest) -> Result<ResumeResponse> {
        if request.version != PROTOCOL_VERSION {
            return Err(Error::invalid_argument(format!(
                "protocol version {} is not {PROTOCOL_VERSION}",
                request.version
            )));
        }
        let identity = Identity::parse(&request.identity)?;
        let repeated = self.gate.is_open_to(&identity)?;
        self.gate.forget_hosts();
        self.connections.clear();
        self.prepared.reseed(&request.entropy)?;
        identity::set_clock(request.realtime)?;
        if !repeated {
            self.prepared.take_identity(&identity)?;
            identity::mount_share()?;
            self.runtime.set_sandbox(identity.sandbox.clone());
            self.gate.open(identity);
        }
        let mut response = ResumeResponse::new();
        response.agent_version = env!("CARGO_PKG_VERSION").into();
        response.kernel_release = self.prepared.kernel_release().to_owned();
        Ok(response)
    }

    async fn take_output(&self, request: ReadOutputRequest) -> Result<ReadOutputResponse> {
        let process = process_ref(request.id, request.exec_id)?;
        let output = match request.stream.enum_value() {
            Ok(Stream::STREAM_STDOUT) => Output::Stdout,
            Ok(Stream::STREAM_STDERR) => Output::Stderr,
            _ => {
                let number = request.stream.value();
                return Err(Error::invalid_argument(format!("stream {number} of {process}")));
            }
        };
        let credit = credit(request.max, || format!("read output of {process}"))?;
        let (offset, knows_drained) = (request.offset, request.knows_drained);
        let wanted = Wanted { offset, credit, knows_drained };
        let mut response = ReadOutputResponse::new();
        match self.runtime.find(&process)?.read_output(output, wanted).await? {
            Chunk::Data(data) => response.data = data,
            Chunk::End => response.eof = true,
            Chunk::Drained => response.drained = true,
        }
        Ok(response)
    }

    async fn give_input(&self, request: WriteInputRequest) -> Result<WriteInputResponse> {
        let process = process_ref(request.id, request.exec_id)?;
        check_length(&request.data, || format!("input for {process}"))?;
        let process = self.runtime.find(&process)?;
        // In a task of its own: a caller that leaves must not cut what it has sent in two.
        tokio::spawn(async move { process.write_input(&request.data).await })
            .await
            .internal(|| "write input")??;
        Ok(WriteInputResponse::new())
    }
}

/// How many bytes may be answered at once.
fn credit(max: u32, what: impl FnOnce() -> String) -> Result<usize> {
    match usize::try_from(max).unwrap_or(MAX_CHUNK).min(MAX_CHUNK) {
        0 => Err(Error::invalid_argument(format!("{} without credit", what()))),
        credit => Ok(credit),
    }
}

fn check_length(data: &[u8], what: impl FnOnce() -> String) -> Result<()> {
    let length = data.len();
    if length > MAX_CHUNK {
        let message = format!("{length} bytes of {} exceed {MAX_CHUNK}", what());
        return Err(Error::invalid_argument(message));
    }
    Ok(())
}

fn process_ref(container: String, exec: String) -> Result<ProcessRef> {
    let container = ContainerId::parse(container)?;
    Ok(match exec.is_empty() {
        true => ProcessRef::init(container),
        false => ProcessRef::exec(container, ExecId::parse(exec)?),
    })
}

fn answer<T>(result: Result<T>) -> ttrpc::Result<T> {
    result.map_err(|error| ttrpc::Error::RpcStatus(status_of(&error)))
}

#[async_trait]
impl Guest for GuestService {
    async fn resume(
        &self,
        _context: &TtrpcContext,
        request: ResumeRequest,
    ) -> ttrpc::Result<ResumeResponse> {
        answer(self.resume_as(&request))
    }

    async fn read_output(
        &self,
        _context: &TtrpcContext,
        request: ReadOutputRequest,
    ) -> ttrpc::Result<ReadOutputResponse> {
        answer(self.take_output(request).await)
    }

    async fn write_input(
        &self,
        _context: &TtrpcContext,
        request: WriteInputRequest,
    ) -> ttrpc::Result<WriteInputResponse> {
        answer(self.give_input(request).await)
    }

    async fn watch(
        &self,
        _context: &TtrpcContext,
        request: WatchRequest,
    ) -> ttrpc::Result<WatchResponse> {
        let patience = Duration::from_millis(request.patience.into());
        let out_of_memory = self.bulletin.take(patience).await;
        Ok(WatchResponse { out_of_memory, ..Default::default() })
    }

    async fn dial(
        &self,
        _context: &TtrpcContext,
        request: DialRequest,
    ) -> ttrpc::Result<DialResponse> {
        let dialled = self.connections.dial(request.port).await;
        answer(dialled.map(|connection| DialResponse { connection, ..Default::default() }))
    }

    async fn receive(
        &self,
        _context: &TtrpcContext,
        request: ReceiveRequest,
    ) -> ttrpc::Result<ReceiveResponse> {
        let receive = async {
            let id = request.connection;
            let credit = credit(request.max, || format!("receive from connection {id}"))?;
            let data = self.connections.receive(id, credit).await?;
            Ok(ReceiveResponse { data, ..Default::default() })
        };
        answer(receive.await)
    }

    async fn send(
        &self,
        _context: &TtrpcContext,
        request: SendRequest,
    ) -> ttrpc::Result<SendResponse> {
        let send = async {
            let id = request.connection;
            check_length(&request.data, || format!("data for connection {id}"))?;
            self.connections.send(id, &request.data).await
        };
        answer(send.await.map(|()| SendResponse::new()))
    }

    async fn hang_up(
        &self,
        _context: &TtrpcContext,
        request: HangUpRequest,
    ) -> ttrpc::Result<HangUpResponse> {
        let hung_up = self.connections.hang_up(request.connection, request.sending_only).await;
        answer(hung_up.map(|()| HangUpResponse::new()))
    }
}
