//! Hosts that come, go, and leave half a frame behind.

use std::io::Write;
use std::time::Duration;

use runtime_api::{ErrorKind, Runtime};
use runtime_task::error_of;

use crate::guest::init;
use crate::in_a_guest;

#[test]
fn a_host_that_comes_back_finds_everything_as_it_was() {
    in_a_guest(async |guest| {
        let script = "echo before; sleep 3; echo after; exit 5";
        guest.create("lasting", &["sh", "-c", script]).await.unwrap();
        guest.tasks_start("lasting").await;
        for _ in 0..3 {
            guest.reconnect().await;
            guest.resume("pod").await.unwrap();
        }
        let outcome = guest.collect(&init("lasting")).await.unwrap();
        assert_eq!((outcome.code, outcome.text().as_str()), (5, "before\nafter"));

        // Half a frame: a header that promises more than ever comes.
        guest.disconnect().await;
        let mut dead = std::os::unix::net::UnixStream::connect(guest.port()).unwrap();
        dead.write_all(&[0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 7, 7, 7]).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(dead);
        guest.reconnect().await;
        guest.resume("pod").await.unwrap();
        assert_eq!(guest.run("alive", &["true"]).await.code, 0);

        let other = error_of("Resume", guest.resume("other").await.unwrap_err());
        assert_eq!(other.kind(), ErrorKind::FailedPrecondition);
        let gone = guest.tasks.state(&init("lasting")).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_host_that_takes_a_place_unnoticed_is_not_answered_what_another_has_asked() {
    in_a_guest(async |guest| {
        let guest: &crate::guest::Guest = guest;
        guest.create("kept", &["sleep", "1000"]).await.unwrap();
        guest.tasks_start("kept").await;
        let process = init("kept");
        let dead = async {
            let reading = guest.read(&process, guest_api::Stream::STREAM_STDOUT, 0);
            tokio::join!(guest.tasks.wait(&process), reading)
        };
        let living = async {
            // Its calls come over the same connection, as far as the guest can tell.
            tokio::time::sleep(Duration::from_millis(500)).await;
            guest.resume("pod").await.unwrap();
            guest.dispose("kept").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        tokio::select! {
            answered = dead => panic!("the dead host is answered {answered:?}"),
            () = living => {}
        }
    });
}
