//! [`Event`] ⇄ the topic and message under which containerd knows it.

use std::time::SystemTime;

use containerd_shim_protos::events::task as messages;
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_api::{
    ContainerId, Endpoint, Error, Event, EventKind, ExecId, Pid, Result, SandboxId, Stdio,
};

use crate::convert::{any, decode, encode, exit, exit_fields, mount, mount_message};

/// The topic and the message of an event, with a bare type name as containerd's own shims send it.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub fn event_envelope(event: &Event) -> Result<(&'static str, Any)> {
    let container_id = event.container.to_string();
    let exec_or_init = |exec: &Option<ExecId>| match exec {
        Some(exec) => exec.to_string(),
        None => event.container.to_string(),
    };
    match event.kind.clone() {
        EventKind::Create { bundle, rootfs, stdio, pid } => envelope(
            topics::TASK_CREATE_EVENT_TOPIC,
            &messages::TaskCreate {
                container_id,
                bundle: bundle.to_string_lossy().into_owned(),
                rootfs: rootfs.into_iter().map(mount_message).collect(),
                io: MessageField::some(io(&stdio)),
                pid: pid.0,
                ..Default::default()
            },
        ),
        EventKind::Start { pid } => envelope(
            topics::TASK_START_EVENT_TOPIC,
            &messages::TaskStart { container_id, pid: pid.0, ..Default::default() },
        ),
        EventKind::Oom => envelope(
            topics::TASK_OOM_EVENT_TOPIC,
            &messages::TaskOOM { container_id, ..Default::default() },
        ),
        EventKind::Exit { exec, pid, exit } => {
            let (exit_status, exited_at) = exit_fields(exit);
            let id = exec_or_init(&exec);
            let pid = pid.0;
            let exited = messages::TaskExit {
                container_id,
                id,
                pid,
                exit_status,
                exited_at,
                ..Default::default()
            };
            envelope(topics::TASK_EXIT_EVENT_TOPIC, &exited)
        }
        EventKind::Delete { pid, exit } => {
            let (exit_status, exited_at) = exit_fields(exit);
            let pid = pid.0;
            let deleted = messages::TaskDelete {
                container_id,
                pid,
                exit_status,
                exited_at,
                ..Default::default()
            };
            envelope(topics::TASK_DELETE_EVENT_TOPIC, &deleted)
        }
        EventKind::ExecAdded { exec } => envelope(
            topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            &messages::TaskExecAdded {
                container_id,
                exec_id: exec.to_string(),
                ..Default::default()
            },
        ),
        EventKind::ExecStarted { exec, pid } => envelope(
            topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            &messages::TaskExecStarted {
                container_id,
                exec_id: exec.to_string(),
                pid: pid.0,
                ..Default::default()
            },
        ),
        EventKind::Paused => envelope(
            topics::TASK_PAUSED_EVENT_TOPIC,
            &messages::TaskPaused { container_id, ..Default::default() },
        ),
        EventKind::Resumed => envelope(
            topics::TASK_RESUMED_EVENT_TOPIC,
            &messages::TaskResumed { container_id, ..Default::default() },
        ),
    }
}

/// The event that a message tells of, by its topic. The message does not name the sandbox, which is
/// taken to be the namesake of the container, and most do not say when: then it is now.
///
/// # Errors
/// `InvalidArgument` for a topic or a message that is none.
pub fn event_of(topic: &str, message: &[u8]) -> Result<Event> {
    let (container, kind) = match topic {
        topics::TASK_CREATE_EVENT_TOPIC => {
            let created: messages::TaskCreate = decode(message)?;
            let io = created.io.unwrap_or_default();
            let stdio = Stdio {
                stdin: Endpoint::parse(&io.stdin)?,
                stdout: Endpoint::parse(&io.stdout)?,
                stderr: Endpoint::parse(&io.stderr)?,
                terminal: io.terminal,
            };
            let rootfs = created.rootfs.into_iter().map(mount).collect();
            let (bundle, pid) = (created.bundle.into(), Pid(created.pid));
            (created.container_id, EventKind::Create { bundle, rootfs, stdio, pid })
        }
        topics::TASK_START_EVENT_TOPIC => {
            let started: messages::TaskStart = decode(message)?;
            (started.container_id, EventKind::Start { pid: Pid(started.pid) })
        }
        topics::TASK_OOM_EVENT_TOPIC => {
            (decode::<messages::TaskOOM>(message)?.container_id, EventKind::Oom)
        }
        topics::TASK_EXIT_EVENT_TOPIC => {
            let exited: messages::TaskExit = decode(message)?;
            let exec = match exited.id == exited.container_id {
                true => None,
                false => Some(ExecId::parse(exited.id)?),
            };
            let exit = exit(exited.exit_status, exited.exited_at.as_ref());
            (exited.container_id, EventKind::Exit { exec, pid: Pid(exited.pid), exit })
        }
        topics::TASK_DELETE_EVENT_TOPIC => {
            let deleted: messages::TaskDelete = decode(message)?;
            let exit = exit(deleted.exit_status, deleted.exited_at.as_ref());
            (deleted.container_id, EventKind::Delete { pid: Pid(deleted.pid), exit })
        }
        topics::TASK_EXEC_ADDED_EVENT_TOPIC => {
            let added: messages::TaskExecAdded = decode(message)?;
            (added.container_id, EventKind::ExecAdded { exec: ExecId::parse(added.exec_id)? })
        }
        topics::TASK_EXEC_STARTED_EVENT_TOPIC => {
            let started: messages::TaskExecStarted = decode(message)?;
            let (exec, pid) = (ExecId::parse(started.exec_id)?, Pid(started.pid));
            (started.container_id, EventKind::ExecStarted { exec, pid })
        }
        topics::TASK_PAUSED_EVENT_TOPIC => {
            (decode::<messages::TaskPaused>(message)?.container_id, EventKind::Paused)
        }
        topics::TASK_RESUMED_EVENT_TOPIC => {
            (decode::<messages::TaskResumed>(message)?.container_id, EventKind::Resumed)
        }
        other => return Err(Error::invalid_argument(format!("events of the topic {other:?}"))),
    };
    let sandbox = SandboxId::parse(container.as_str())?;
    let container = ContainerId::parse(container)?;
    Ok(Event { sandbox, container, at: SystemTime::now(), kind })
}

fn io(stdio: &Stdio) -> messages::TaskIO {
    messages::TaskIO {
        stdin: stdio.stdin.to_string(),
        stdout: stdio.stdout.to_string(),
        stderr: stdio.stderr.to_string(),
        terminal: stdio.terminal,
        ..Default::default()
    }
}

fn envelope<M: Message>(topic: &'static str, message: &M) -> Result<(&'static str, Any)> {
    Ok((topic, any(&format!("containerd.events.{}", M::NAME), encode(message)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::ExitStatus;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn every_event_survives_its_message() {
        let exit = ExitStatus { code: 7, at: UNIX_EPOCH + Duration::from_secs(9) };
        let exec = ExecId::parse("e").unwrap();
        let (pid, stdio) = (Pid(5), Stdio { terminal: true, ..Stdio::default() });
        let (bundle, rootfs) = ("/b".into(), vec![runtime_api::Mount::default()]);
        let kinds = [
            EventKind::Create { bundle, rootfs, stdio, pid },
            EventKind::Start { pid },
            EventKind::Oom,
            EventKind::Exit { exec: None, pid, exit },
            EventKind::Exit { exec: Some(exec.clone()), pid, exit },
            EventKind::Delete { pid, exit },
            EventKind::ExecAdded { exec: exec.clone() },
            EventKind::ExecStarted { exec, pid },
            EventKind::Paused,
            EventKind::Resumed,
        ];
        for kind in kinds {
            let sandbox = SandboxId::parse("c").unwrap();
            let container = ContainerId::parse("c").unwrap();
            let event = Event { sandbox, container, at: UNIX_EPOCH, kind };
            let (topic, message) = event_envelope(&event).unwrap();
            let back = event_of(topic, &message.value).unwrap();
            assert_eq!(Event { at: UNIX_EPOCH, ..back }, event);
        }
        assert!(event_of("/tasks/unknown", b"").is_err());
    }

    #[test]
    fn an_exit_names_the_process_that_ended() {
        let exit = ExitStatus { code: 42, at: SystemTime::now() };
        let event = |exec| Event {
            sandbox: SandboxId::parse("s").unwrap(),
            container: ContainerId::parse("c").unwrap(),
            at: SystemTime::now(),
            kind: EventKind::Exit { exec, pid: Pid(1), exit },
        };
        for (exec, id) in [(None, "c"), (Some(ExecId::parse("e").unwrap()), "e")] {
            let (topic, message) = event_envelope(&event(exec)).unwrap();
            assert_eq!(topic, "/tasks/exit");
            assert_eq!(message.type_url, "containerd.events.TaskExit");
            let message = messages::TaskExit::parse_from_bytes(&message.value).unwrap();
            assert_eq!((message.id.as_str(), message.exit_status), (id, 42));
            assert!(message.exited_at.is_some());
        }
    }
}
