#!/usr/bin/env bash
# Builds what a VM boots, from the agent and the distribution's kernel: DIR/vmlinux (entered by
# PVH), DIR/initramfs.img and DIR/manifest.json, which names what they are made of. The same inputs
# give the same bytes, and nothing is done when DIR holds them already.
#
# Usage: scripts/guest-image.sh --agent FILE [--kernel FILE --modules DIR] [--out DIR]
#   --agent FILE    the static program which the guest runs as PID 1
#   --kernel FILE   a bzImage or a vmlinux; default: Debian's newest linux-image-amd64, downloaded
#                   to /var/cache/vmrt/kernel and not installed
#   --modules DIR   that kernel's /lib/modules/RELEASE
#   --out DIR       default: target/guest-image
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/guest/kernel.sh
source "$repo/scripts/guest/kernel.sh"
# shellcheck source=scripts/guest/vmlinux.sh
source "$repo/scripts/guest/vmlinux.sh"
# shellcheck source=scripts/guest/modules.sh
source "$repo/scripts/guest/modules.sh"
# shellcheck source=scripts/guest/initramfs.sh
source "$repo/scripts/guest/initramfs.sh"
# shellcheck source=scripts/guest/image.sh
source "$repo/scripts/guest/image.sh"

agent='' kernel='' modules='' kernel_package='' partial='' files=()
out=$repo/target/guest-image
list=$repo/scripts/guest/modules

parse_arguments() {
    while (($#)); do
        case $1 in
            -h | --help)
                awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
                exit
                ;;
            --agent | --kernel | --modules | --out)
                (($# > 1)) || die "$1 needs a value"
                printf -v "${1#--}" %s "$2"
                shift 2
                ;;
            *) die "unknown argument: $1 (see --help)" ;;
        esac
    done
    [[ -n $agent ]] || die "--agent is missing (see --help)"
    [[ ${kernel:+x} == "${modules:+x}" ]] || die "--kernel and --modules come together"
    [[ -f $agent && -r $agent ]] || die "cannot read the agent $agent"
    out=$(realpath -m -- "$out")
}

find_inputs() {
    local found
    if [[ -z $kernel ]]; then
        find_kernel
        kernel=$(compgen -G "$kernel_dir/boot/vmlinuz-*") || die "no boot/vmlinuz-* in $kernel_dir"
        modules=$kernel_dir/lib/modules/${kernel##*/vmlinuz-}
    fi
    [[ -f $kernel && -r $kernel ]] || die "cannot read the kernel $kernel"
    found=$(resolve_modules "$modules" "$list")
    # There is none when the kernel has everything built in.
    [[ -z $found ]] || mapfile -t files <<<"$found"
    key=$({
        printf '%s\n' "$kernel_package" "${files[@]}"
        cat -- "$repo"/scripts/guest-image.sh "$repo"/scripts/guest/*
        (cd -- "$modules" && sha256sum -- modules.builtin "${files[@]}")
        sha256sum <"$kernel"
        sha256sum <"$agent"
    } | sha256sum | cut -d ' ' -f 1)
}

build() {
    if grep -qs "\"key\": \"$key\"" "$out/manifest.json" && ! changed_since_built; then
        say "up to date: $out"
        return
    fi
    need binutils
    ! readelf -lW -- "$agent" 2>/dev/null | grep -q INTERP ||
        die "the agent $agent is not static: nothing in the guest could load its libraries"
    claim_out
    say "extracting vmlinux from $kernel"
    run extract_vmlinux "$kernel" "$partial/vmlinux"
    say "packing ${#files[@]} modules and the agent"
    run pack_initramfs
    write_manifest >"$partial/manifest.json"
    replace_out
    say "made $out ($(du -h -- "$out" | cut -f 1))"
}

parse_arguments "$@"
on_exit abandon_build
find_inputs
with_lock "$out.lock" build
