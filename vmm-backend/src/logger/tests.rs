use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;

const NAMES: Names<'static> = Names { namespace: "n", id: "c" };

/// A directory with a program in it, and the URI of that.
fn program(script: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logger");
    fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let uri = format!("binary://{}?a=b%20c&d", path.display());
    (directory, uri)
}

#[test]
fn a_uri_is_taken_apart_as_containerd_does() {
    let program = Program::parse("binary:///bin/a%20b?key=v+1&flag&x=%2F").unwrap();
    assert_eq!(program.path, Path::new("/bin/a b"));
    assert_eq!(program.arguments, ["key", "v 1", "flag", "", "x", "/"]);
    for bad in
        ["binary://relative", "binary:/x", "binary:///x?%", "binary:///x?%zz", "binary:///%00"]
    {
        let error = Program::parse(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
    }
}

#[tokio::test]
async fn both_outputs_arrive_and_the_program_is_awaited() {
    let script = "echo $# $1 \"$2\" $CONTAINER_NAMESPACE $CONTAINER_ID >args; exec 5>&-\n\
                  cat <&3 >out; cat <&4 >err; echo done >>err";
    let (directory, uri) = program(script);
    let (logger, [mut out, mut err]) = Logger::start(&uri, NAMES).await.unwrap();
    assert_eq!(out.write(b"one").await.unwrap(), 3);
    assert_eq!(err.write(b"two").await.unwrap(), 3);
    drop((out, err));
    logger.finish().await;
    let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(text("args"), "4 a b c n c\n");
    assert_eq!((text("out").as_str(), text("err").as_str()), ("one", "twodone\n"));
}

#[tokio::test]
async fn a_program_that_has_ended_holds_nobody_up() {
    let (_directory, uri) = program("exit 1");
    let (logger, [mut out, _err]) = Logger::start(&uri, NAMES).await.unwrap();
    let data = vec![0; 1 << 20];
    let all = async {
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let count = out.write(rest).await.unwrap();
            rest = &rest[count..];
        }
    };
    timeout(DEADLINE, all).await.unwrap();
    logger.finish().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let error = Logger::start("binary:///no/such/logger", NAMES).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/logger"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_never_ready_is_killed() {
    let (directory, uri) = program("echo $$ >pid; exec sleep 1000");
    let began = Instant::now();
    let error = Logger::start(&uri, NAMES).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(began.elapsed() < DEADLINE, "the deadline is that of the paused clock");
    // It may have been killed before it could write.
    if let Ok(pid) = fs::read_to_string(directory.path().join("pid")) {
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}

#[tokio::test]
async fn a_program_that_does_not_end_is_killed() {
    let (directory, uri) = program("echo $$ >pid; exec 5>&-; exec sleep 1000");
    let (logger, pipes) = Logger::start(&uri, NAMES).await.unwrap();
    drop(pipes);
    tokio::time::pause();
    logger.finish().await;
    let pid = fs::read_to_string(directory.path().join("pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
