//! The guest-only service (`guest-api/proto/guest.proto`).

use std::sync::Arc;

use async_trait::async_trait;
use guest_api::{
    Guest, MAX_CHUNK, PROTOCOL_VERSION, ReadOutputRequest, ReadOutputResponse, ResumeRequest,
    ResumeResponse, Stream, WriteInputRequest, WriteInputResponse,
};
use runtime_api::{ContainerId, Error, ExecId, ProcessRef, Result, ResultExt};
use runtime_task::status_of;
use ttrpc::r#async::TtrpcContext;

use crate::LinuxRuntime;
use crate::gate::Gate;
use crate::identity::{self, Identity, Prepared};
use crate::streams::{Chunk, Output};

/// Serves what the Task service has no words for.
pub struct GuestService {
    runtime: Arc<LinuxRuntime>,
    gate: Arc<Gate>,
    prepared: Prepared,
}

impl GuestService {
    pub(crate) fn new(runtime: Arc<LinuxRuntime>, gate: Arc<Gate>) -> Result<Self> {
        Ok(Self { runtime, gate, prepared: Prepared::prepare()? })
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
        let credit = usize::try_from(request.max).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
        if credit == 0 {
            let message = format!("read output of {process} without credit");
            return Err(Error::invalid_argument(message));
        }
        let mut response = ReadOutputResponse::new();
        match self.runtime.find(&process)?.read_output(output, credit).await? {
            Chunk::Data(data) => response.data = data,
            Chunk::End => response.eof = true,
            Chunk::Drained => response.drained = true,
        }
        Ok(response)
    }

    async fn give_input(&self, request: WriteInputRequest) -> Result<WriteInputResponse> {
        let process = process_ref(request.id, request.exec_id)?;
        if request.data.len() > MAX_CHUNK {
            let length = request.data.len();
            let message = format!("{length} bytes of input for {process} exceed {MAX_CHUNK}");
            return Err(Error::invalid_argument(message));
        }
        let process = self.runtime.find(&process)?;
        // In a task of its own: a caller that leaves must not cut what it has sent in two.
        tokio::spawn(async move { process.write_input(&request.data).await })
            .await
            .internal(|| "write input")??;
        Ok(WriteInputResponse::new())
    }
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
}
