#!/usr/bin/env bash
# Measures vmrt beside runc, on one private containerd. Installs what it needs, builds what it
# measures, and takes everything down again.
#
# Usage: scripts/bench.sh [--quick] [--rows A,B] [--gate FILE] [OPTION]...        --help lists them all
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

build() {
    scripts/build.sh
    scripts/images/busybox.sh
    cargo build --quiet --release --locked -p conformance --bin vmrt-bench
}

need_cargo
need ca-certificates gcc libc6-dev qemu-system-x86
need_daemon
# Where the caller's paths are relative to.
directory=$PWD
cd -- "$repo"
export CARGO_TARGET_DIR=$repo/target
build >&2
export VMRT_SHIM=$repo/target/release/containerd-shim-vmrt-v2
export VMRT_LIBRARY=$repo/target/release/libvmrt.so
export VMRT_GUEST_IMAGE=$repo/target/guest-image
export VMRT_TEST_IMAGE=$repo/target/images/busybox.tar
cd -- "$directory"
# In place of the shell: the program cleans up by itself at a signal.
exec "$repo/target/release/vmrt-bench" --json "$repo/target/bench/report.json" "$@"
