#!/usr/bin/env bash
# Runs the conformance suite: cases that know only the trait, through every door to a runtime.
#
# Usage: scripts/conformance.sh [OPTION]... [FILTER]        FILTER: a part of "target: case"
#   --target NAME     library, wire or reference; may be given several times; default: all
#   --shim PATH       the shim of the target wire; default: the one of scripts/build.sh
#   --library PATH    the library of the target library; default: the one of scripts/build.sh
#   --reference PATH  the shim of the target reference; default: runc's
#   --report PATH     the directory of junit.xml and matrix.html; default: target/conformance
#
# Any shim that speaks containerd's shim v2 can be given, and any library with the table of vmrt.h.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

shim=$repo/target/release/containerd-shim-vmrt-v2
library=$repo/target/release/libvmrt.so
reference=/usr/bin/containerd-shim-runc-v2
report=$repo/target/conformance
targets=()
filter=()
while (($#)); do
    case $1 in
        --target | --shim | --library | --reference | --report)
            (($# > 1)) || die "$1 needs a value"
            case $1 in
                --target) targets+=("$2") ;;
                --shim) shim=$2 ;;
                --library) library=$2 ;;
                --reference) reference=$2 ;;
                --report) report=$2 ;;
            esac
            shift 2
            ;;
        -h | --help) exec sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ;;
        -*) die "no such option: $1" ;;
        *) filter+=("$1") && shift ;;
    esac
done
((${#filter[@]} <= 1)) || die "one filter is enough: ${filter[*]}"
((${#targets[@]})) || targets=(library wire reference)
for target in "${targets[@]}"; do
    [[ $target == @(library|wire|reference) ]] ||
        die "no such target: $target (there are library, wire and reference)"
done

# Only what the targets need: authors of other runtimes have no use for a guest.
needed=("$repo/target/images/busybox.tar")
[[ " ${targets[*]} " != *" wire "* ]] || needed+=("$shim")
[[ " ${targets[*]} " != *" library "* ]] || needed+=("$library")
[[ " ${targets[*]} " != *" reference "* ]] || needed+=("$reference")
for file in "${needed[@]}"; do
    [[ -e $file ]] || die "$file is missing: run scripts/test.sh build, or name another one"
done
((EUID == 0)) || die "containers need root"
need_cargo
mkdir -p -- "$report" "$repo/target/guest-image"
VMRT_SHIM=$(realpath -- "$shim") VMRT_LIBRARY=$(realpath -- "$library")
VMRT_REFERENCE=$(realpath -- "$reference") VMRT_REPORT=$(realpath -- "$report")
export VMRT_SHIM VMRT_LIBRARY VMRT_REFERENCE VMRT_REPORT VMRT_TARGETS="${targets[*]}"
export VMRT_GUEST_IMAGE=$repo/target/guest-image VMRT_TEST_IMAGE=$repo/target/images/busybox.tar
export CARGO_TARGET_DIR=$repo/target
cd -- "$repo"
on_exit true
run cargo test --quiet --locked -p conformance --test conformance -- "${filter[@]}"
