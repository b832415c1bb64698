# shellcheck shell=bash
# What the scripts need from the machine. Sourced by ../lib.sh.
#
#   need PACKAGE…             install the Debian packages which are missing
#   need_daemon               install containerd and runc, unless some build of them is there
#   need_cargo                find cargo, also where rustup puts it
#   fetch_package PACKAGE DIR unpack a Debian package below DIR without installing it

need() {
    local package missing=()
    for package in "$@"; do
        # shellcheck disable=SC2016  # the braces belong to dpkg-query
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "packages missing: ${missing[*]}; run as root, or install them first"
    say "installing ${missing[*]}"
    update_packages
    (without_services apt_get install --no-install-recommends --no-remove "${missing[@]}") ||
        die "cannot install ${missing[*]}: apt-get's last lines are above"
}

# Debian's containerd conflicts with the vendors' packages, so that any installed daemon must serve.
need_daemon() {
    if ! command -v containerd >/dev/null || ! command -v ctr >/dev/null; then
        need containerd
    fi
    command -v runc >/dev/null || need runc
}

need_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
    command -v cargo >/dev/null || die "cargo is neither on PATH nor in ~/.cargo/bin: install Rust"
}

fetch_package() {
    local package=$1 target download
    target=$(realpath -- "$2")
    update_packages
    download=$(mktemp -d)
    # apt-get downloads as user _apt, who must be able to write there.
    chmod 777 "$download"
    if ! (cd "$download" && apt_get download "$package" && dpkg-deb -x ./*.deb "$target"); then
        rm -rf -- "$download"
        die "cannot fetch package $package: apt-get's last lines are above"
    fi
    rm -rf -- "$download"
}

# At most once in a run: the scripts which this one starts inherit the mark.
update_packages() {
    [[ -z ${VMRT_PACKAGES_UPDATED:-} ]] || return 0
    apt_get update || die "apt-get update failed: its last lines are above"
    export VMRT_PACKAGES_UPDATED=1
}

# Runs apt-get, silent unless it fails.
apt_get() {
    local output
    output=$(DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" 2>&1 </dev/null) || {
        tail -n 30 <<<"$output" >&2
        return 1
    }
}

# Runs a command during which no package may start its service. To be called in a subshell, whose
# exit takes the policy away again. A policy which the machine already has stays in force.
without_services() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        # shellcheck disable=SC2064  # the path of now is meant
        trap "rm -f $policy" EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    "$@"
}
