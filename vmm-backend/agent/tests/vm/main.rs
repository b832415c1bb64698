//! The agent in a real guest, driven over its virtio-serial port.
//!
//! `VMRT_GUEST_IMAGE` names the directory that `scripts/guest-image.sh` has made; without it the
//! cases are skipped. Each test boots a guest of its own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by a panic")]

mod bundle;
mod environment;
mod guest;
mod lifecycle;
mod reconnect;
mod streams;

/// Runs a case in a fresh guest, or prints why not.
fn in_a_guest(case: impl AsyncFnOnce(&mut guest::Guest)) {
    let Some(image) = std::env::var_os("VMRT_GUEST_IMAGE") else {
        println!("skipped: VMRT_GUEST_IMAGE is not set");
        return;
    };
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let mut guest = guest::Guest::boot(image.as_ref()).await;
        case(&mut guest).await;
    });
}
