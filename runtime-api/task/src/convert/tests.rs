//! Every conversion there and back.

use super::*;

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

#[test]
fn every_kind_has_a_code_of_its_own() {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::InvalidArgument,
        ErrorKind::FailedPrecondition,
        ErrorKind::Unavailable,
        ErrorKind::Unimplemented,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];
    for kind in kinds {
        assert_eq!(kind_of(code_of(kind)), kind);
    }
}

#[test]
fn a_creation_survives_the_wire() {
    let created = CreateContainer {
        id: id("c1"),
        sandbox: None,
        bundle: "/run/b".into(),
        rootfs: vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["lowerdir=/a:/b".into()],
        }],
        stdio: Stdio { stdout: Endpoint::Channel, terminal: true, ..Default::default() },
        options: RuntimeOptions {
            config_path: Some("/etc/vmrt/c.toml".into()),
            config_body: Some("vcpus = 2".into()),
        },
    };
    let bytes = encode(&create_request(created.clone()).unwrap()).unwrap();
    assert_eq!(create(decode(&bytes).unwrap()).unwrap(), created);
}

#[test]
fn options_of_another_runtime_are_refused_by_name() {
    let request = api::CreateTaskRequest {
        id: "c1".into(),
        bundle: "/b".into(),
        options: MessageField::some(any("containerd.runc.v1.Options", vec![])),
        ..Default::default()
    };
    let error = create(request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("containerd.runc.v1.Options"), "{error}");
}

#[test]
fn a_state_survives_the_wire() {
    let process = ProcessRef::exec(id("c1"), ExecId::parse("e1").unwrap());
    for status in [Status::Created, Status::Running, Status::Paused, Status::Stopped] {
        let exit = ExitStatus { code: 137, at: UNIX_EPOCH + Duration::new(5, 7) };
        let before = ProcessState {
            bundle: "/b".into(),
            pid: Pid(7),
            status,
            stdio: Stdio { stdin: Endpoint::Fifo("/f".into()), ..Default::default() },
            exit: (status == Status::Stopped).then_some(exit),
        };
        let message = state_response(&process, before.clone());
        assert_eq!((message.id.as_str(), message.exec_id.as_str()), ("c1", "e1"));
        assert_eq!(state(message).unwrap(), before);
    }
}

#[test]
fn an_exec_and_its_listing_survive_the_wire() {
    let request = Exec {
        container: id("c1"),
        id: ExecId::parse("e1").unwrap(),
        process: Json(br#"{"cwd":"/"}"#.to_vec()),
        stdio: Stdio::default(),
    };
    assert_eq!(exec(exec_request(request.clone())).unwrap(), request);
    let listed = vec![
        ProcessInfo { pid: Pid(1), exec: None },
        ProcessInfo { pid: Pid(2), exec: Some(request.id) },
    ];
    assert_eq!(pids(pids_response(listed.clone())).unwrap(), listed);
}

#[test]
fn what_is_malformed_is_named() {
    let error = decode::<api::CreateTaskRequest>(&[0xff]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("CreateTaskRequest"), "{error}");
    assert!(exec(api::ExecProcessRequest::new()).is_err());
    assert!(update(api::UpdateTaskRequest::new()).is_err());
    let huge = api::ResizePtyRequest { width: 65536, ..Default::default() };
    assert!(window_size(&huge).is_err());
}
