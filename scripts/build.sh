#!/usr/bin/env bash
# Builds what an installation consists of, into target/:
#
#   release/containerd-shim-vmrt-v2   the shim
#   release/libvmrt.so                the library
#   guest-image/                      the kernel and the initramfs with the agent
#
# Usage: [VMRT_KERNEL=distribution|own] scripts/build.sh [programs|image]...        default: both
#   VMRT_KERNEL     the kernel of the image: the distribution's, which is the default, or the own one
#                   of scripts/build-kernel.sh, whose first build takes minutes
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

triple=$(uname -m)-unknown-linux-gnu

# The agent is the guest's only program, so that it must be static; the shim is built the same way
# and shares its dependencies. Fixed addresses spare thousands of relocations, and the pages which
# they would dirty, at every start of either. The explicit target keeps the flags away from build scripts and
# procedural macros, which cannot be linked statically.
build_programs() {
    say "building the shim and the agent"
    need gcc libc6-dev libseccomp-dev
    RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        LIBSECCOMP_LINK_TYPE=static \
        LIBSECCOMP_LIB_PATH=$(dirname -- "$(dpkg -L libseccomp-dev | grep '/libseccomp\.a$')") \
        cargo build --quiet --release --locked -p shim -p vmrt-agent --target "$triple"
    mkdir -p target/release
    ln -f "target/$triple/release/containerd-shim-vmrt-v2" target/release/
    say "building the library"
    cargo build --quiet --release --locked -p libvmrt
}

build_image() {
    local directory kernel=()
    if [[ $VMRT_KERNEL == own ]]; then
        directory=$("$repo/scripts/build-kernel.sh")
        kernel=(--kernel "$directory/vmlinux" --modules "$(echo "$directory"/lib/modules/*)")
    fi
    "$repo/scripts/guest-image.sh" --agent "$repo/target/$triple/release/vmrt-agent" \
        "${kernel[@]}" --out "$repo/target/guest-image"
}

: "${VMRT_KERNEL:=distribution}"
[[ $VMRT_KERNEL == @(distribution|own) ]] ||
    die "no such kernel: VMRT_KERNEL=$VMRT_KERNEL (there are distribution and own)"
(($#)) || set -- programs image
for part in "$@"; do
    [[ $part == programs || $part == image ]] || die "no such part: $part (there are programs and image)"
done
need_cargo
cd -- "$repo"
# Found under target/ by every other script.
export CARGO_TARGET_DIR=$repo/target
for part in "$@"; do
    "build_$part"
done
