//! Saving a machine as a template and restoring clones of it.
//!
//! Both are QEMU's migration, to and from a file. The guest's memory is not copied: a capability
//! makes migration leave out shared memory, and the template's memory is a shared mapping of a file
//! when it is saved and a private mapping of the same file in every clone.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::arguments::{Sockets, Start, arguments};
use super::vm::{QemuVm, launch, within_deadline};
use crate::vmm::{ExitReason, FileIdentity, Fingerprint, TemplateFiles, Vm, VmSpec, VmmError};

/// What a booted guest goes on doing by itself for a while (freeing memory, grace periods of RCU)
/// every clone would have to finish, under TCG for some 15 ms of processor time.
const SETTLING_TIME: Duration = Duration::from_secs(1);

/// How often QEMU is asked whether it is done; saving takes about ten milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Under which QEMU knows the file with the state.
const STATE: &str = "state";

/// What a template for `spec` depends on: the arguments of its machine, less what names a sandbox.
/// The speed of the time-stamp counter is left out: it is measured, and the same for the whole life
/// of a host.
pub(super) fn fingerprint(program: &Path, spec: &VmSpec) -> Result<Fingerprint, VmmError> {
    let guest = &spec.guest;
    let inputs =
        [("hypervisor", program), ("kernel", &guest.kernel), ("initramfs", &guest.initramfs)]
            .into_iter()
            .map(|(role, path)| {
                FileIdentity::of(path).map_err(|source| VmmError::GuestFile {
                    role,
                    path: path.to_owned(),
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
    let nowhere = Path::new("/");
    let spec = VmSpec { directory: nowhere.into(), share: nowhere.into(), ..spec.clone() };
    let start = Start::BootTemplate { memory: nowhere };
    let line = arguments(&spec, start, &Sockets::new(nowhere)?, None);
    let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
    Ok(Fingerprint { inputs, settings: words.join(" ") })
}

/// Boots, saves, ends.
pub(super) async fn save(
    program: &Path,
    spec: &VmSpec,
    files: &TemplateFiles,
) -> Result<(), VmmError> {
    let mut create = OpenOptions::new();
    let state = create.write(true).create_new(true).mode(0o600).open(&files.state);
    let state = state.map_err(|source| host("create", &files.state, source))?;
    let outputs = Arc::default();
    let saving = async {
        let start = Start::BootTemplate { memory: &files.memory };
        let vm = launch(program, spec, start, &outputs).await?;
        vm.agent_opened(spec).await?;
        sleep(SETTLING_TIME).await;
        migrate(&vm, "migrate", state).await?;
        saved(&vm).await?;
        vm.kill().await
    };
    within_deadline(spec, &outputs, saving).await
}

/// Starts a clone.
pub(super) async fn restore(
    program: &Path,
    spec: &VmSpec,
    files: &TemplateFiles,
) -> Result<QemuVm, VmmError> {
    // QEMU would make a memory that is missing.
    for path in [&files.memory, &files.state] {
        File::open(path).map_err(|source| host("open", path, source))?;
    }
    let state = File::open(&files.state).map_err(|source| host("open", &files.state, source))?;
    let outputs = Arc::default();
    let restoring = async {
        let start = Start::Clone { memory: &files.memory };
        let vm = launch(program, spec, start, &outputs).await.map_err(dead)?;
        migrate(&vm, "migrate-incoming", state).await?;
        vm.runs(spec).await.map_err(dead)?;
        Ok(vm)
    };
    within_deadline(spec, &outputs, restoring).await
}

async fn migrate(vm: &QemuVm, command: &'static str, state: File) -> Result<(), VmmError> {
    let without_memory = json!([{ "capability": "x-ignore-shared", "state": true }]);
    vm.command("migrate-set-capabilities", json!({ "capabilities": without_memory })).await?;
    vm.give(STATE, state).await?;
    vm.command(command, json!({ "uri": format!("fd:{STATE}") })).await.map(drop)
}

async fn saved(vm: &QemuVm) -> Result<(), VmmError> {
    loop {
        let answer = vm.command("query-migrate", json!({})).await?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => return Err(failed("save", reason(&answer))),
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// QEMU ends when it cannot make sense of the files. Who is killed says nothing about them.
fn dead(error: VmmError) -> VmmError {
    match error {
        VmmError::DiedDuringBoot { reason: ExitReason::Killed { .. }, .. } => error,
        VmmError::DiedDuringBoot { .. } => failed("restore", error.to_string()),
        error => error,
    }
}

fn reason(answer: &Value) -> String {
    answer["error-desc"].as_str().unwrap_or("QEMU gives no reason").to_owned()
}

fn failed(attempt: &'static str, detail: String) -> VmmError {
    VmmError::Template { attempt, detail }
}

fn host(attempt: &'static str, path: &Path, source: std::io::Error) -> VmmError {
    VmmError::Host { attempt, path: path.to_owned(), source }
}
