//! Task messages ⇄ types of the trait. Pure functions, both directions side by side.

mod table;
pub use table::{created, created_response, dial, dial_request};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api;
use containerd_shim_protos::types::task as types;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField, UnknownValueRef};
use runtime_api::{
    ContainerId, CreateContainer, Endpoint, Error, ErrorKind, Exec, ExecId, ExitStatus, Json,
    KillScope, Mount, Pid, ProcessInfo, ProcessRef, ProcessState, Result, RuntimeOptions, Signal,
    Status, Stdio, Update, WindowSize,
};
use ttrpc::Code;

/// The type of the process of an Exec (containerd `typeurl`).
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The type of the resources of an Update.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// The type of the details in a Pids answer.
const PROCESS_DETAILS_TYPE: &str = "containerd.runc.v1.ProcessDetails";
/// How the type of runtime options ends, by containerd (`runtimeoptions.v1`) and by older ones.
const OPTIONS_TYPES: [&str; 2] = ["runtimeoptions.v1.Options", "runtimeoptions/v1.Options"];

// Errors ------------------------------------------------------------------------------------------

/// The gRPC code of an error kind.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Cancelled => Code::CANCELLED,
        ErrorKind::Internal => Code::INTERNAL,
    }
}

/// The error kind of a gRPC code by its number; what is no code is `Internal`.
pub fn kind_of_number(code: i32) -> ErrorKind {
    <Code as protobuf::Enum>::from_i32(code).map_or(ErrorKind::Internal, kind_of)
}

/// The error kind of a gRPC code.
pub fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => ErrorKind::InvalidArgument,
        Code::FAILED_PRECONDITION | Code::ABORTED => ErrorKind::FailedPrecondition,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::CANCELLED => ErrorKind::Cancelled,
        Code::OK
        | Code::UNKNOWN
        | Code::INTERNAL
        | Code::DATA_LOSS
        | Code::PERMISSION_DENIED
        | Code::UNAUTHENTICATED
        | Code::RESOURCE_EXHAUSTED => ErrorKind::Internal,
    }
}

// Bytes -------------------------------------------------------------------------------------------

/// Decodes a message.
///
/// # Errors
/// `InvalidArgument` naming the message.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M> {
    M::parse_from_bytes(bytes).map_err(|source| {
        Error::invalid_argument(format!("malformed {}", M::NAME)).with_source(source)
    })
}

/// Encodes a message.
///
/// # Errors
/// `Internal` naming the message, when it is larger than protobuf allows.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>> {
    message
        .write_to_bytes()
        .map_err(|source| Error::internal(format!("encode {}", M::NAME)).with_source(source))
}

// References --------------------------------------------------------------------------------------

/// The process that a message names by its `id` and `exec_id`.
///
/// # Errors
/// `InvalidArgument` for what is no id.
pub fn process(id: &str, exec_id: &str) -> Result<ProcessRef> {
    let container = ContainerId::parse(id)?;
    let exec = if exec_id.is_empty() { None } else { Some(ExecId::parse(exec_id)?) };
    Ok(ProcessRef { container, exec, key: None })
}

/// The `id` and `exec_id` of a process.
pub fn ids(process: &ProcessRef) -> (String, String) {
    let exec = process.exec.as_ref().map(ToString::to_string).unwrap_or_default();
    (process.container.to_string(), exec)
}

// Create ------------------------------------------------------------------------------------------

/// `CreateTaskRequest` → [`CreateContainer`].
///
/// # Errors
/// `InvalidArgument` for ids, streams and options that make no sense; `Unimplemented` for a
/// checkpoint to restore.
pub fn create(request: api::CreateTaskRequest) -> Result<CreateContainer> {
    if !request.checkpoint.is_empty() {
        return Err(Error::unimplemented(format!(
            "container {}: restore from checkpoint {}",
            request.id, request.checkpoint
        )));
    }
    if !request.bundle.starts_with('/') {
        return Err(Error::invalid_argument(format!(
            "bundle {:?} of container {} is not an absolute path",
            request.bundle, request.id
        )));
    }
    Ok(CreateContainer {
        id: ContainerId::parse(request.id)?,
        sandbox: None,
        bundle: request.bundle.into(),
        rootfs: request.rootfs.into_iter().map(mount).collect(),
        stdio: Stdio {
            stdin: Endpoint::parse(&request.stdin)?,
            stdout: Endpoint::parse(&request.stdout)?,
            stderr: Endpoint::parse(&request.stderr)?,
            terminal: request.terminal,
        },
        options: options(request.options.as_ref())?,
    })
}

/// [`CreateContainer`] → `CreateTaskRequest`.
///
/// # Errors
/// `Unimplemented` when the request names a sandbox: Task leaves that to the bundle's annotations.
pub fn create_request(create: CreateContainer) -> Result<api::CreateTaskRequest> {
    if let Some(sandbox) = create.sandbox {
        return Err(Error::unimplemented(format!(
            "container {}: the Task service cannot name sandbox {sandbox}",
            create.id
        )));
    }
    Ok(api::CreateTaskRequest {
        id: create.id.to_string(),
        bundle: create.bundle.to_string_lossy().into_owned(),
        rootfs: create.rootfs.into_iter().map(mount_message).collect(),
        terminal: create.stdio.terminal,
        stdin: create.stdio.stdin.to_string(),
        stdout: create.stdio.stdout.to_string(),
        stderr: create.stdio.stderr.to_string(),
        options: options_message(&create.options),
        ..Default::default()
    })
}

/// `types.Mount` → [`Mount`].
pub fn mount(message: api::Mount) -> Mount {
    Mount {
        kind: message.type_,
        source: message.source,
        target: message.target,
        options: message.options,
    }
}

/// [`Mount`] → `types.Mount`.
pub fn mount_message(mount: Mount) -> api::Mount {
    api::Mount {
        type_: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
        ..Default::default()
    }
}

/// Reads `runtimeoptions.v1.Options {type_url = 1, config_path = 2, config_body = 3}`.
fn options(any: Option<&Any>) -> Result<RuntimeOptions> {
    let mut options = RuntimeOptions::default();
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(options);
    };
    if !OPTIONS_TYPES.iter().any(|known| any.type_url.ends_with(known)) {
        return Err(Error::invalid_argument(format!(
            "runtime options of the unknown type {:?}; known is {}",
            any.type_url, OPTIONS_TYPES[0]
        )));
    }
    let fields = decode::<Empty>(&any.value)?;
    for (number, value) in fields.special_fields.unknown_fields().iter() {
        let UnknownValueRef::LengthDelimited(bytes) = value else { continue };
        let text = || {
            String::from_utf8(bytes.to_vec()).map_err(|source| {
                Error::invalid_argument("runtime options are not UTF-8").with_source(source)
            })
        };
        match number {
            2 if !bytes.is_empty() => options.config_path = Some(text()?.into()),
            3 if !bytes.is_empty() => options.config_body = Some(text()?),
            _ => {}
        }
    }
    Ok(options)
}

fn options_message(options: &RuntimeOptions) -> MessageField<Any> {
    if *options == RuntimeOptions::default() {
        return MessageField::none();
    }
    let mut fields = Empty::new();
    let mut add = |number, bytes: &[u8]| {
        fields.special_fields.mut_unknown_fields().add_length_delimited(number, bytes.to_vec());
    };
    if let Some(path) = &options.config_path {
        add(2, path.as_os_str().as_encoded_bytes());
    }
    if let Some(body) = &options.config_body {
        add(3, body.as_bytes());
    }
    // Unknown fields of a message that has no fields always fit.
    let value = fields.write_to_bytes().unwrap_or_default();
    MessageField::some(any(OPTIONS_TYPES[0], value))
}

/// An `Any` of a type that protobuf does not generate here.
pub(crate) fn any(type_url: &str, value: Vec<u8>) -> Any {
    Any { type_url: type_url.to_owned(), value, ..Default::default() }
}

// Exec and Update ---------------------------------------------------------------------------------

/// `ExecProcessRequest` → [`Exec`].
///
/// # Errors
/// `InvalidArgument` for ids and streams that make no sense, or a missing process.
pub fn exec(request: api::ExecProcessRequest) -> Result<Exec> {
    let spec = request.spec.into_option().unwrap_or_default();
    if spec.value.is_empty() {
        return Err(Error::invalid_argument(format!("exec {} has no process", request.exec_id)));
    }
    Ok(Exec {
        container: ContainerId::parse(request.id)?,
        id: ExecId::parse(request.exec_id)?,
        process: Json(spec.value),
        stdio: Stdio {
            stdin: Endpoint::parse(&request.stdin)?,
            stdout: Endpoint::parse(&request.stdout)?,
            stderr: Endpoint::parse(&request.stderr)?,
            terminal: request.terminal,
        },
    })
}

/// [`Exec`] → `ExecProcessRequest`.
pub fn exec_request(exec: Exec) -> api::ExecProcessRequest {
    api::ExecProcessRequest {
        id: exec.container.to_string(),
        exec_id: exec.id.to_string(),
        terminal: exec.stdio.terminal,
        stdin: exec.stdio.stdin.to_string(),
        stdout: exec.stdio.stdout.to_string(),
        stderr: exec.stdio.stderr.to_string(),
        spec: MessageField::some(any(PROCESS_TYPE, exec.process.0)),
        ..Default::default()
    }
}

/// `UpdateTaskRequest` → [`Update`].
///
/// # Errors
/// `InvalidArgument` for a bad id or missing resources.
pub fn update(request: api::UpdateTaskRequest) -> Result<Update> {
    let resources = request.resources.into_option().unwrap_or_default();
    if resources.value.is_empty() {
        return Err(Error::invalid_argument(format!("update of {} has no resources", request.id)));
    }
    Ok(Update { container: ContainerId::parse(request.id)?, resources: Json(resources.value) })
}

/// [`Update`] → `UpdateTaskRequest`.
pub fn update_request(update: Update) -> api::UpdateTaskRequest {
    api::UpdateTaskRequest {
        id: update.container.to_string(),
        resources: MessageField::some(any(RESOURCES_TYPE, update.resources.0)),
        ..Default::default()
    }
}

// State, exit and time ----------------------------------------------------------------------------

/// [`ProcessState`] → `StateResponse`.
pub fn state_response(process: &ProcessRef, state: ProcessState) -> api::StateResponse {
    let (id, exec_id) = ids(process);
    let (exit_status, exited_at) = state.exit.map_or((0, MessageField::none()), exit_fields);
    api::StateResponse {
        id,
        exec_id,
        bundle: state.bundle.to_string_lossy().into_owned(),
        pid: state.pid.0,
        status: status_message(state.status).into(),
        stdin: state.stdio.stdin.to_string(),
        stdout: state.stdio.stdout.to_string(),
        stderr: state.stdio.stderr.to_string(),
        terminal: state.stdio.terminal,
        exit_status,
        exited_at,
        ..Default::default()
    }
}

/// `StateResponse` → [`ProcessState`].
///
/// # Errors
/// `Internal` for a status that the trait does not know.
pub fn state(response: api::StateResponse) -> Result<ProcessState> {
    let status = match response.status.enum_value() {
        Ok(types::Status::CREATED) => Status::Created,
        Ok(types::Status::RUNNING) => Status::Running,
        Ok(types::Status::PAUSED | types::Status::PAUSING) => Status::Paused,
        Ok(types::Status::STOPPED) => Status::Stopped,
        Ok(types::Status::UNKNOWN) | Err(_) => {
            return Err(Error::internal(format!("{} has an unknown status", response.id)));
        }
    };
    Ok(ProcessState {
        bundle: response.bundle.into(),
        pid: Pid(response.pid),
        status,
        stdio: Stdio {
            stdin: Endpoint::parse(&response.stdin)?,
            stdout: Endpoint::parse(&response.stdout)?,
            stderr: Endpoint::parse(&response.stderr)?,
            terminal: response.terminal,
        },
        exit: (status == Status::Stopped)
            .then(|| exit(response.exit_status, response.exited_at.as_ref())),
    })
}

fn status_message(status: Status) -> types::Status {
    match status {
        Status::Created => types::Status::CREATED,
        Status::Running => types::Status::RUNNING,
        Status::Paused => types::Status::PAUSED,
        Status::Stopped => types::Status::STOPPED,
    }
}

/// [`ExitStatus`] → the two fields that every message has for it.
pub fn exit_fields(exit: ExitStatus) -> (u32, MessageField<Timestamp>) {
    (exit.code, MessageField::some(timestamp(exit.at)))
}

/// The two fields that every message has for it → [`ExitStatus`].
pub fn exit(code: u32, at: Option<&Timestamp>) -> ExitStatus {
    ExitStatus { code, at: at.map_or(UNIX_EPOCH, time) }
}

/// [`SystemTime`] → `Timestamp`; what lies before 1970 becomes 1970.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        // Always below 10^9.
        nanos: since.subsec_nanos() as i32,
        ..Default::default()
    }
}

fn time(at: &Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(at.seconds).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(at.nanos).unwrap_or(0));
    UNIX_EPOCH.checked_add(seconds + nanos).unwrap_or(UNIX_EPOCH)
}

// Kill, ResizePty, Pids ---------------------------------------------------------------------------

/// The fields of a `KillRequest`.
///
/// # Errors
/// `InvalidArgument` for a bad id or signal.
pub fn kill(request: &api::KillRequest) -> Result<(ProcessRef, Signal, KillScope)> {
    let scope = if request.all { KillScope::All } else { KillScope::Process };
    Ok((process(&request.id, &request.exec_id)?, Signal::parse(request.signal)?, scope))
}

/// The size in a `ResizePtyRequest`.
///
/// # Errors
/// `InvalidArgument` when a side is above 65535 (`struct winsize`, ioctl_tty(2)).
pub fn window_size(request: &api::ResizePtyRequest) -> Result<WindowSize> {
    let side = |cells: u32| {
        u16::try_from(cells)
            .map_err(|_| Error::invalid_argument(format!("terminal size {cells} is above 65535")))
    };
    Ok(WindowSize { width: side(request.width)?, height: side(request.height)? })
}

/// [`ProcessInfo`]s → `PidsResponse`; an exec carries its id as `ProcessDetails {exec_id = 1}`.
pub fn pids_response(processes: Vec<ProcessInfo>) -> api::PidsResponse {
    let message = |process: ProcessInfo| {
        let info = process.exec.map(|exec| {
            let mut details = Empty::new();
            let fields = details.special_fields.mut_unknown_fields();
            fields.add_length_delimited(1, exec.as_str().as_bytes().to_vec());
            any(PROCESS_DETAILS_TYPE, details.write_to_bytes().unwrap_or_default())
        });
        types::ProcessInfo { pid: process.pid.0, info: info.into(), ..Default::default() }
    };
    api::PidsResponse {
        processes: processes.into_iter().map(message).collect(),
        ..Default::default()
    }
}

/// `PidsResponse` → [`ProcessInfo`]s.
///
/// # Errors
/// `InvalidArgument` for details that name no exec.
pub fn pids(response: api::PidsResponse) -> Result<Vec<ProcessInfo>> {
    let exec = |info: &Any| -> Result<Option<ExecId>> {
        let details = decode::<Empty>(&info.value)?;
        match details.special_fields.unknown_fields().get(1) {
            Some(UnknownValueRef::LengthDelimited(id)) => {
                Ok(Some(ExecId::parse(String::from_utf8_lossy(id))?))
            }
            _ => Ok(None),
        }
    };
    let process = |message: types::ProcessInfo| {
        let exec = message.info.as_ref().map(exec).transpose()?.flatten();
        Ok(ProcessInfo { pid: Pid(message.pid), exec })
    };
    response.processes.into_iter().map(process).collect()
}

#[cfg(test)]
mod tests;
