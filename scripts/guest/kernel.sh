# shellcheck shell=bash
# The distribution's kernel, unpacked below /var/cache/vmrt/kernel and not installed.
# Sourced by ../guest-image.sh.
#
#   find_kernel             set kernel_dir (it holds boot/ and lib/modules/) and kernel_package
#
# One directory per package and version, as the archive names them: linux-image-…_6.1.192-2. The
# link `current` names the one in use. It is younger than apt's lists as long as asking apt again
# would give the same answer.

# shellcheck disable=SC2034  # what find_kernel sets is used there
kernel_cache=/var/cache/vmrt/kernel
apt_lists=/var/lib/apt/lists

find_kernel() {
    if [[ ! -e $kernel_cache/current || $apt_lists -nt $kernel_cache/current ]]; then
        [[ -w /var/cache || -w $kernel_cache ]] ||
            die "cannot write $kernel_cache: run as root, or give --kernel and --modules"
        with_lock "$kernel_cache/lock" update_kernel
    fi
    kernel_dir=$(realpath -- "$kernel_cache/current")
    kernel_package=${kernel_dir##*/}
}

update_kernel() {
    local name
    if ! name=$(newest_kernel) || [[ ! -d $kernel_cache/$name ]]; then
        partial=$kernel_cache/partial
        if ! run download_kernel; then
            [[ -e $kernel_cache/current ]] || die "no kernel: none to download, none in $kernel_cache"
            say "cannot download a kernel, using $(readlink "$kernel_cache/current") from the cache"
            rm -rf -- "$partial"
            partial=
            return
        fi
        partial=
        name=$(newest_kernel)
    fi
    # -nt looks at what the link names.
    touch -- "$kernel_cache/$name"
    ln -sfn -- "$name" "$kernel_cache/current.new"
    mv -fT -- "$kernel_cache/current.new" "$kernel_cache/current"
}

# Prints PACKAGE_VERSION of the kernel which apt would install, or fails when it knows none.
newest_kernel() {
    local package version
    package=$(apt-cache depends linux-image-amd64 2>/dev/null |
        awk '$1 == "Depends:" { print $2; exit }')
    [[ -n $package ]] || return 1
    version=$(apt-cache show --no-all-versions "$package" 2>/dev/null |
        awk '$1 == "Version:" { print $2; exit }')
    [[ -n $version ]] || return 1
    printf '%s_%s' "$package" "$version"
}

download_kernel() {
    local name release
    say "asking apt for the newest linux-image-amd64"
    update_packages
    need kmod
    name=$(newest_kernel) || die "apt knows no package linux-image-amd64"
    [[ ! -d $kernel_cache/$name ]] || return 0
    say "downloading and unpacking ${name%%_*} ${name#*_} (70 MB)"
    # Whoever holds the lock owns this directory, so that what a killed run left goes here.
    rm -rf -- "$partial"
    mkdir -p -- "$partial/tmp"
    # _apt, as whom apt-get downloads, must be able to pass.
    chmod 711 "$partial" "$partial/tmp"
    TMPDIR=$partial/tmp fetch_package "${name%%_*}" "$partial"
    # The package leaves the list of dependencies to its installation.
    release=$(basename -- "$partial"/lib/modules/*)
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$partial" "$release" || die "depmod failed for $name"
    rm -rf -- "$partial/tmp"
    mv -T -- "$partial" "$kernel_cache/$name"
}
