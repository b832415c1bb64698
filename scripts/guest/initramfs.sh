# shellcheck shell=bash
# Writes the initramfs: a cpio archive of the format "newc". The records are written here and not
# by cpio, so that they hold nothing of the machine (times, inodes, owners) and a device node needs
# no privilege. Sourced by ../guest-image.sh.
#
#   make_initramfs AGENT MODULES    print the archive; MODULES is a directory of files
#
# The layout is a contract with the agent:
#
#   /init                  the agent
#   /lib/modules/order     names of files beside it, one per line, in the order of loading
#   /dev/console           what the kernel opens as the agent's stdin, stdout and stderr

make_initramfs() {
    local agent=$1 modules=$2 directory file
    inode=0
    for directory in dev etc lib lib/modules proc run sys; do
        record 040755 "$directory"
    done
    record 041777 tmp
    record 020600 dev/console 5 1
    record 0100755 init "$agent"
    # The shell sorts names by LC_COLLATE.
    local LC_ALL=C
    for file in "$modules"/*; do
        record 0100644 "lib/modules/${file##*/}" "$file"
    done
    record 0 'TRAILER!!!'
}

# A directory: MODE NAME. A file: MODE NAME SOURCE. A device: MODE NAME MAJOR MINOR.
record() {
    local mode=$1 name=$2 source='' size=0 major=0 minor=0
    case $# in
        3) source=$3 size=$(stat -Lc %s -- "$3") ;;
        4) major=$3 minor=$4 ;;
    esac
    # Magic, inode, mode, uid, gid, links, mtime, size, device, device named, length of name, check.
    printf '070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\0' \
        "$((inode += 1))" "$((mode))" 0 0 1 0 "$size" 0 0 "$major" "$minor" "$((${#name} + 1))" 0 \
        "$name"
    # Name and data end at multiples of four; the header has 110 bytes.
    pad $((110 + ${#name} + 1))
    if [[ -n $source ]]; then
        cat -- "$source"
        pad "$size"
    fi
}

pad() {
    local count=$(((4 - $1 % 4) % 4))
    ((count == 0)) || head -c "$count" /dev/zero
}
