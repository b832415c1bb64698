#!/usr/bin/env bash
# Builds the own guest kernel, which boots faster than the distribution's and takes less memory:
# Debian's source with the configuration of scripts/guest/kernel.config, everything built in.
# Prints the directory which holds it:
#
#   vmlinux                 entered by PVH; without symbols, which are in System.map
#   lib/modules/RELEASE/    modules.builtin, and an empty modules.dep
#   System.map, config      for those who look into it
#
# The directory is below /var/cache/vmrt/own-kernel, one for each version of the source and of the
# configuration. The build takes minutes, all processors at low priority, and 2 GB of disk; nothing
# is done when the directory is there already. To make a guest image with it:
# VMRT_KERNEL=own scripts/build.sh image
#
# Usage: scripts/build-kernel.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/guest/own-kernel.sh
source "$repo/scripts/guest/own-kernel.sh"
# shellcheck source=scripts/guest/vmlinux.sh
source "$repo/scripts/guest/vmlinux.sh"
# shellcheck source=scripts/guest/modules.sh
source "$repo/scripts/guest/modules.sh"

package=linux-source-6.1
cache=/var/cache/vmrt/own-kernel
fragment=$repo/scripts/guest/kernel.config
version='' result='' work=''

# Sets version and result by what apt knows; fails when it knows no such package.
name_result() {
    local key
    version=$(package_version "$package") || return 1
    key=$({
        printf '%s\n' "$package" "$version"
        cat -- "$repo"/scripts/{build-kernel.sh,guest/own-kernel.sh,guest/kernel.config}
    } | sha256sum | cut -c 1-16)
    result=$cache/${version}_$key
}

build() {
    if name_result && [[ -d $result ]]; then
        say "up to date: $result"
        return
    fi
    # Its lists may name a version which the archive no longer has.
    update_packages
    name_result || die "apt knows no package $package; Debian 12 has it"
    [[ ! -d $result ]] || return 0
    need bc binutils bison flex gcc libc6-dev libelf-dev make xz-utils
    # Whoever holds the lock owns these names, so that what a killed run left goes here. What still
    # runs of it does not find its files again, as this build has a directory of its own.
    rm -rf -- "$cache"/build.*
    work=$cache/build.$$
    mkdir -- "$work"
    run fetch_source
    say "unpacking the source"
    run unpack_source
    run configure
    say "compiling with $(nproc) processes"
    run compile
    collect_result
    mv -T -- "$work/result" "$result"
    say "made $result ($(du -h -- "$result/vmlinux" | cut -f 1))"
}

collect_result() {
    local release modules
    release=$(cat "$work/source/include/config/kernel.release")
    modules=$work/result/lib/modules/$release
    mkdir -p -- "$modules"
    strip -o "$work/result/vmlinux" "$work/source/vmlinux"
    check_vmlinux "$work/result/vmlinux" "$work/source/vmlinux"
    cp -- "$work/source/System.map" "$work/result/System.map"
    cp -- "$work/source/.config" "$work/result/config"
    cp -- "$work/source/modules.builtin" "$modules/modules.builtin"
    : >"$modules/modules.dep"
    # Dies when the guest needs one which is not built in.
    resolve_modules "$modules" "$repo/scripts/guest/modules"
    chmod -R u=rwX,go=rX -- "$work/result"
}

remove_work() { [[ -z $work ]] || rm -rf -- "$work"; }

(($# == 0)) || die "usage: $0 (see its first lines)"
[[ -w /var/cache || -w $cache ]] || die "cannot write $cache: run as root"
on_exit remove_work
# Whoever comes second waits for the first one's kernel and not in vain.
lock_wait=3600 with_lock "$cache/lock" build
printf '%s\n' "$result"
