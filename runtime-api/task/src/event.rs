//! [`Event`] → the topic and message under which containerd knows it.

use containerd_shim_protos::events::task as messages;
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_api::{Event, EventKind, ExecId, Result, Stdio};

use crate::convert::{any, encode, exit_fields, mount_message};

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
    use runtime_api::{ContainerId, ExitStatus, Pid, SandboxId};
    use std::time::SystemTime;

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
