#!/usr/bin/env bash
# Builds what an installation consists of, into target/:
#
#   release/containerd-shim-vmrt-v2   the shim
#   release/libvmrt.so                the library
#   guest-image/                      the kernel and the initramfs with the agent
#
# Usage: scripts/build.sh [shim|guest]...        default: both
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

triple=$(uname -m)-unknown-linux-gnu

build_shim() {
    say "building the shim and the library"
    need gcc libc6-dev
    cargo build --quiet --release --locked -p shim -p libvmrt
}

# The agent is the guest's only program, so that it must be static. The explicit target keeps the
# flags away from build scripts and procedural macros, which cannot be linked statically.
build_guest() {
    say "building the agent and the guest image"
    need gcc libc6-dev libseccomp-dev
    RUSTFLAGS="-C target-feature=+crt-static" \
        LIBSECCOMP_LINK_TYPE=static \
        LIBSECCOMP_LIB_PATH=$(dirname -- "$(dpkg -L libseccomp-dev | grep '/libseccomp\.a$')") \
        cargo build --quiet --release --locked -p vmrt-agent --target "$triple"
    "$repo/scripts/guest-image.sh" --agent "$repo/target/$triple/release/vmrt-agent" \
        --out "$repo/target/guest-image"
}

(($#)) || set -- shim guest
for part in "$@"; do
    [[ $part == shim || $part == guest ]] || die "no such part: $part (there are shim and guest)"
done
need_cargo
cd -- "$repo"
# Found under target/ by every other script.
export CARGO_TARGET_DIR=$repo/target
for part in "$@"; do
    "build_$part"
done
