#!/usr/bin/env bash
# Installs what scripts/build.sh made, or removes it again.
#
# Usage: scripts/install.sh [--prefix DIR] [--sysconfdir DIR] [--uninstall]
#
#   PREFIX/bin/containerd-shim-vmrt-v2   the shim
#   PREFIX/lib/vmrt/libvmrt.so           the library
#   PREFIX/include/vmrt.h                its interface
#   PREFIX/share/vmrt/guest-image/       what the VMs boot
#   SYSCONFDIR/vmrt/config.toml          the configuration; an existing one is kept
#
# Defaults: /usr/local and /etc. --uninstall needs the same directories.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

prefix=/usr/local sysconfdir=/etc action=install_all
while (($#)); do
    case $1 in
        --prefix | --sysconfdir)
            (($# > 1)) || die "$1 needs a directory"
            [[ $2 == /* ]] || die "$1 needs an absolute path, not $2"
            declare "${1#--}=$2"
            shift 2
            ;;
        --uninstall) action=uninstall_all && shift ;;
        *) die "usage: $0 [--prefix DIR] [--sysconfdir DIR] [--uninstall]" ;;
    esac
done
prefix=${prefix%/} config=${sysconfdir%/}/vmrt/config.toml
share=$prefix/share/vmrt
# What an installation made, a path per line; --uninstall goes by it.
manifest=$share/installed

# Beside its place first, for a running shim's file cannot be written to, but replaced.
place() { # MODE FILE TARGET
    install -D -m "$1" -- "$2" "$3.new"
    mv -- "$3.new" "$3"
    printf '%s\n' "$3" >>"$manifest.new"
}

default_config() { printf '# See the README for what can be set.\nguest_image = "%s"\n' "$share/guest-image"; }

install_all() {
    local shim=$repo/target/release/containerd-shim-vmrt-v2 library=$repo/target/release/libvmrt.so file
    for file in "$shim" "$library" "$repo/target/guest-image"; do
        [[ -e $file ]] || die "$file is missing: run scripts/build.sh"
    done
    mkdir -p -- "$share"
    : >"$manifest.new"
    place 755 "$shim" "$prefix/bin/containerd-shim-vmrt-v2"
    place 644 "$library" "$prefix/lib/vmrt/libvmrt.so"
    place 644 "$repo/runtime-api/capi/include/vmrt.h" "$prefix/include/vmrt.h"
    while IFS= read -r file; do
        place 644 "$repo/target/guest-image/$file" "$share/guest-image/$file"
    done < <(cd -- "$repo/target/guest-image" && find . -type f -printf '%P\n' | sort)
    if [[ -e $config ]]; then
        say "kept $config"
    else
        install -D -m 644 <(default_config) "$config"
    fi
    # What an earlier version installed and this one does not have.
    [[ ! -e $manifest ]] || { grep -vxFf "$manifest.new" "$manifest" || true; } | xargs -r -d '\n' rm -f --
    mv -- "$manifest.new" "$manifest"
    say "installed below $prefix"
    print_setup
}

print_setup() {
    cat <<EOT
The containerd daemon's PATH must contain $prefix/bin. The first pod builds the template of all pods, unless
"$prefix/bin/containerd-shim-vmrt-v2 template warm" has done so. For CRI, add to /etc/containerd/config.toml:

  # version = 2 (containerd 1.x)
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.vmrt]
    runtime_type = "io.containerd.vmrt.v2"

  # version = 3 (containerd 2.x)
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.vmrt]
    runtime_type = "io.containerd.vmrt.v2"
EOT
}

uninstall_all() {
    [[ -e $manifest ]] || die "$manifest is missing: nothing is installed below $prefix"
    [[ ! -e $config ]] || export VMRT_CONFIG=$config
    "$prefix/bin/containerd-shim-vmrt-v2" template clear || say "templates are kept: see the line above"
    while IFS= read -r file; do
        rm -f -- "$file"
    done <"$manifest"
    [[ ! -e $config ]] || ! cmp -s "$config" <(default_config) || rm -f -- "$config"
    [[ ! -e $config ]] || say "kept $config, which differs from the default"
    rm -f -- "$manifest" "$manifest.new"
    find "$share" -depth -type d -empty -delete
    rmdir -- "$prefix/lib/vmrt" "$(dirname -- "$config")" 2>/dev/null || true
    say "removed what was installed below $prefix"
}

"$action"
