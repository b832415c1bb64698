#!/usr/bin/env bash
# Checks everything, from the formatting to the integration suite on real VMs. Installs what it needs.
#
# Usage: scripts/test.sh [STAGE]...   stages: fmt clippy shellcheck build crates suite conformance bench;
#                                     default: all
# shellcheck disable=SC2317  # the stages are called by name, the report by a trap
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

stages=(fmt clippy shellcheck build crates suite conformance bench)
results=()

install_needs() {
    need_cargo
    need ca-certificates g++ gcc golang-go libc6-dev libseccomp-dev qemu-system-x86 shellcheck
    need_daemon
}

stage_fmt() { cargo fmt --all --check; }

stage_clippy() { cargo clippy --quiet --locked --workspace --all-targets -- -D warnings; }

stage_shellcheck() {
    local scripts
    mapfile -t scripts < <(find scripts .ci -type f \( -name '*.sh' -o -name run \) | sort)
    shellcheck -x "${scripts[@]}"
}

stage_build() {
    scripts/build.sh
    scripts/images/busybox.sh
}

# Each crate's own tests; those of the backend and of the agent boot the image that `build` made.
stage_crates() {
    VMRT_GUEST_IMAGE=$repo/target/guest-image \
        cargo test --locked --workspace --exclude conformance --exclude libvmrt
}

# The tests of the suite drive what `build` made; they look for leaks themselves and fail on them.
suite() {
    VMRT_SHIM=$repo/target/release/containerd-shim-vmrt-v2 \
        VMRT_LIBRARY=$repo/target/release/libvmrt.so \
        VMRT_GUEST_IMAGE=$repo/target/guest-image \
        VMRT_TEST_IMAGE=$repo/target/images/busybox.tar \
        cargo test --locked -p conformance "$@"
}

# Through the real containerd, and through the table of the library.
stage_suite() { suite --lib --bins --test tidy --test ctr --test library; }

# The same cases through every door, compared.
stage_conformance() { suite --test conformance; }

# Small counts; fails over the limits of the file.
stage_bench() { scripts/bench.sh --quick --gate tests/bench/gate.toml; }

# Started where the exit code is read, which turns `set -e` off.
run_stage() {
    set -e
    "stage_$1"
}

# Whatever could have been left is only named here; removing it would hide the fault.
report_leftovers() {
    local left
    left=$(grep -o ' /run/vmrt[^ ]*' /proc/self/mountinfo || true)
    left+=$(find /run/vmrt* -type s -printf ' %p' 2>/dev/null || true)
    [[ -z $left ]] || say "left behind:$left"
}

on_exit report_leftovers
(($#)) || set -- "${stages[@]}"
for stage in "$@"; do
    [[ " ${stages[*]} " == *" $stage "* ]] || die "no such stage: $stage (there are: ${stages[*]})"
done
cd -- "$repo"
export CARGO_TARGET_DIR=$repo/target
install_needs
failed=0
for stage in "$@"; do
    say "== $stage"
    begin=$SECONDS
    set +e
    run run_stage "$stage"
    status=$?
    set -e
    result=ok
    ((status == 0)) || result="FAILED ($status)" failed=1
    say "== $stage: $result"
    results+=("$(printf '%-12s %5ds  %s' "$stage" $((SECONDS - begin)) "$result")")
done
printf '%s\n' '' 'stage          time  result' "${results[@]}"
exit "$failed"
