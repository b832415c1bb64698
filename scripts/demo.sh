#!/usr/bin/env bash
# Shows a container in a VM of its own, from nothing: installs, builds, starts a private containerd,
# runs two containers, compares their kernel with the host's, and takes everything down again.
#
# Usage: scripts/demo.sh
#   VMRT_RUNTIME=io.containerd.runc.v2 is a debugging aid: it tells whether containerd and the image
#   work without vmrt. The demo then fails at the comparison, as it must: the kernel is the host's.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

runtime=${VMRT_RUNTIME:-io.containerd.vmrt.v2}
containerd=$repo/scripts/containerd.sh
image=localhost/busybox:latest
bold='' plain=''
if [[ -t 1 ]]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi
phases=()
# The same questions for both sides; `uname -p` and the like differ between busybox and coreutils.
# shellcheck disable=SC2016  # the shells which answer expand it
questions='uname -s; uname -r; uname -v; uname -m; sed -n "s/^model name[[:space:]]*: //p" /proc/cpuinfo | head -n 1'

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Runs a command as one phase of the demo and notes the time which it took.
phase() {
    local name=$1 begin end status=0
    shift
    begin=${EPOCHREALTIME/[.,]/}
    "$@" || status=$?
    end=${EPOCHREALTIME/[.,]/}
    phases+=("$(printf '%-18s %8d ms' "$name" $(((end - begin) / 1000)))")
    ((status == ${expected:-0})) || say "$name ended with code $status"
    return "$status"
}

install_needs() {
    need gcc libc6-dev libseccomp-dev qemu-system-x86
    need_daemon
}

run_container() { # NAME COMMAND
    "$containerd" ctr run --rm --runtime "$runtime" \
        --fifo-dir /run/vmrt-dev/fifo "$image" "$1-$$" sh -c "$2"
}

compare() {
    local host guest line names=(system release version machine processor)
    mapfile -t host < <(sh -c "$questions")
    mapfile -t guest <"$answers"
    ((${#guest[@]} == ${#names[@]})) || die "the container answered ${#guest[@]} of ${#names[@]} lines"
    title "Where the container runs"
    printf '%-10s %-42s %s\n' '' host container
    for line in "${!names[@]}"; do
        printf '%-10s %-42.41s %s\n' "${names[line]}" "${host[line]:-}" "${guest[line]}"
    done
    [[ ${guest[1]} != "${host[1]}" ]] ||
        die "the container has the host's kernel release ${host[1]}: it is not in a VM"
}

take_down() {
    rm -f -- "$answers"
    "$containerd" down
}

((EUID == 0)) || die "the demo needs root, as containerd does"
need_cargo
! "$containerd" status 2>/dev/null || die "the private containerd is in use: scripts/containerd.sh down"
answers=$(mktemp)
on_exit take_down
phase set-up install_needs
phase build run "$repo/scripts/build.sh" programs
phase 'guest image' run "$repo/scripts/build.sh" image
phase containerd run "$containerd" up

say "running two containers with $runtime"
phase 'first container' run run_container demo "$questions" >"$answers"
code=0
expected=42 phase 'second container' run run_container exit 'exit 42' || code=$?
compare
title "The exit code of sh -c 'exit 42'"
printf '%d\n' "$code"
((code == 42)) || die "the exit code is $code and not 42"
title "How long it took"
printf '%s\n' "${phases[@]}"
