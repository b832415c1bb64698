//! From what a dead QEMU printed to an error its user can act on.

use super::output::Tail;
use crate::vmm::{ExitReason, VmSpec, VmmError};

/// The error for a machine that ended before its agent was ready.
pub(super) fn died(spec: &VmSpec, reason: ExitReason, console: &Tail, stderr: &Tail) -> VmmError {
    let text = stderr.text();
    let said = |words: &str| text.lines().find(|line| line.contains(words)).map(without_prefix);
    // The texts are those of QEMU 7.2; unknown ones reach the user as they are.
    let kernel = said("Error loading uncompressed kernel without PVH ELF Note")
        .or_else(|| said("could not load kernel"))
        .or_else(|| said("could not open kernel file"))
        .or_else(|| said("invalid kernel header"))
        // What a file without any kernel header looks like to it.
        .or_else(|| said("linux kernel too old to load a ram disk"));
    if let Some(detail) = kernel {
        return VmmError::GuestImage { path: spec.guest.kernel.clone(), detail };
    }
    if let Some(detail) =
        said("cannot set up guest memory").or_else(|| said("Cannot allocate memory"))
    {
        return VmmError::Memory { memory: spec.memory, detail };
    }
    VmmError::DiedDuringBoot { reason, detail: last_words(console, stderr) }
}

/// The line that says most: QEMU's last one, the kernel's panic, or the last one on the console.
pub(super) fn last_words(console: &Tail, stderr: &Tail) -> String {
    if let Some(line) = stderr.last_line() {
        return without_prefix(&line);
    }
    let text = console.text();
    let panic = text.lines().find(|line| line.contains("Kernel panic")).map(str::to_owned);
    panic.or_else(|| console.last_line()).unwrap_or_else(|| "nothing was printed".to_owned())
}

/// QEMU starts each line with its name, which is either a word or a path.
fn without_prefix(line: &str) -> String {
    match line.split_once(": ") {
        Some((program, words)) if program.ends_with(super::version::PROGRAM) => words.to_owned(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::vmm::{Accelerator, GuestImage, Lifetime, Mebibytes, NetworkNamespace};

    async fn message(stderr_text: &str, console_text: &str) -> String {
        let spec = VmSpec {
            directory: "/run/s".into(),
            share: "/run/s/share".into(),
            guest: GuestImage::in_directory(Path::new("/g")),
            vcpus: 1,
            memory: Mebibytes(512),
            accelerator: Accelerator::Tcg,
            lifetime: Lifetime::Survives,
            network: NetworkNamespace::New,
            command_line: Vec::new(),
            boot_deadline: Duration::from_secs(1),
        };
        let (stderr, console) = (Tail::default(), Tail::default());
        stderr.collect(stderr_text.as_bytes()).await;
        console.collect(console_text.as_bytes()).await;
        died(&spec, ExitReason::Crashed { code: 1 }, &console, &stderr).to_string()
    }

    #[tokio::test]
    async fn known_words_become_errors_that_name_the_thing() {
        let pvh = "qemu-system-x86_64: Error loading uncompressed kernel without PVH ELF Note\n";
        assert_eq!(
            message(pvh, "").await,
            "the guest's kernel /g/vmlinux is corrupt or no ELF kernel with a PVH entry: \
             Error loading uncompressed kernel without PVH ELF Note"
        );
        let memory = "/usr/bin/qemu-system-x86_64: cannot set up guest memory 'memory': \
                      Cannot allocate memory\n";
        assert_eq!(
            message(memory, "").await,
            "the host cannot give the virtual machine 512 MiB of memory: \
             cannot set up guest memory 'memory': Cannot allocate memory"
        );
    }

    #[tokio::test]
    async fn other_words_reach_the_user_as_they_are() {
        assert_eq!(
            message("qemu-system-x86_64: -smp 0: Invalid CPU topology\n\n", "boot\n").await,
            "the virtual machine ended while booting: the VMM exited with code 1: \
             -smp 0: Invalid CPU topology"
        );
        let panic = "[1.0] Kernel panic - not syncing: x\n[1.1] Kernel Offset: disabled\n";
        assert!(message("", panic).await.ends_with("code 1: [1.0] Kernel panic - not syncing: x"));
        assert!(message("", "").await.ends_with("nothing was printed"));
    }
}
