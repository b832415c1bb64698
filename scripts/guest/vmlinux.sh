# shellcheck shell=bash
# The ELF kernel inside a bzImage, which boots in half the time: the guest need not unpack it.
# Sourced by ../guest-image.sh and ../build-kernel.sh.
#
#   extract_vmlinux KERNEL OUTPUT   KERNEL is a bzImage, or a vmlinux already
#   check_vmlinux FILE KERNEL       die unless FILE is an ELF file with a PVH entry point
#   kernel_release FILE             print the release which a vmlinux is built as
#
# Offsets and names are those of Documentation/arch/x86/boot.rst of the kernel.

extract_vmlinux() {
    local kernel=$1 output=$2 start length size command
    if [[ $(bytes "$kernel" 0 4) == 7f454c46 ]]; then
        cp -- "$kernel" "$output"
        check_vmlinux "$output" "$kernel"
        return
    fi
    # HdrS; payload_offset came with version 2.08 of the protocol.
    [[ $(bytes "$kernel" 0x202 4) == 48647253 && $(number "$kernel" 0x206 2) -ge $((0x208)) ]] ||
        die "$kernel: neither a bzImage (boot protocol 2.08 or later) nor an ELF file"
    # The payload starts payload_offset after the setup sectors and the boot sector before them.
    start=$((($(number "$kernel" 0x1f1 1) + 1) * 512 + $(number "$kernel" 0x248 4)))
    length=$(number "$kernel" 0x24c 4)
    ((length > 4 && start + length <= $(stat -c %s -- "$kernel"))) ||
        die "$kernel: truncated: the payload ends at byte $((start + length))"
    # The payload's last four bytes are the size of what it unpacks to.
    size=$(number "$kernel" $((start + length - 4)) 4)
    command=$(decompressor "$kernel" "$start")
    # These four bytes are a part of the format for gzip only; the others stumble over them.
    [[ $command == gzip* ]] || ((length -= 4))
    # shellcheck disable=SC2086  # the command and its options
    tail -c +$((start + 1)) -- "$kernel" | head -c "$length" | $command >"$output" 2>/dev/null || true
    (($(stat -c %s -- "$output") == size)) ||
        die "$kernel: corrupt: ${command%% *} unpacked $(stat -c %s -- "$output") of $size bytes"
    check_vmlinux "$output" "$kernel"
}

# The package is asked for here, as few machines lack the tool of their own kernel's format.
decompressor() { # KERNEL OFFSET
    local magic
    magic=$(bytes "$1" "$2" 6)
    case $magic in
        1f8b*) echo "gzip -dc" ;;
        fd377a585a00) need xz-utils && echo "xz -dc" ;;
        5d0000*) need xz-utils && echo "xz --format=lzma -dc" ;;
        28b52ffd*) need zstd && echo "zstd -dc" ;;
        02214c18*) need lz4 && echo "lz4 -dc" ;;
        425a68*) need bzip2 && echo "bzip2 -dc" ;;
        *) die "$1: payload of unknown compression, it starts with bytes $magic" ;;
    esac
}

check_vmlinux() {
    local notes
    notes=$(readelf -nW -- "$1" 2>/dev/null) || die "$2: the kernel is not an ELF file"
    # 0x12 is XEN_ELFNOTE_PHYS32_ENTRY, where a PVH loader enters.
    grep -q '^ *Xen .*(0x00000012)' <<<"$notes" ||
        die "$2: the kernel has no PVH entry point; it needs CONFIG_PVH=y"
}

kernel_release() {
    grep -aom1 'Linux version [^ ]*' -- "$1" | awk '{ print $3; exit }'
}

# Prints COUNT bytes of FILE at OFFSET in hexadecimal.
bytes() { od -An -tx1 -j "$(($2))" -N "$3" -- "$1" 2>/dev/null | tr -d ' \n'; }

# Prints a little-endian number of 1, 2 or 4 bytes.
number() {
    local digits
    digits=$(bytes "$@")
    ((${#digits} == 2 * $3)) || die "$1: truncated: no $3 bytes at $(($2))"
    printf '%d' "0x$(fold -w 2 <<<"$digits" | tac | tr -d '\n')"
}
