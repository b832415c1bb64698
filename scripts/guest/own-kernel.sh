# shellcheck shell=bash
# The steps of ../build-kernel.sh, whose variables they use. Sourced by it.
# shellcheck disable=SC2154
#
#   package_version PACKAGE       print the version which apt would install
#   fetch_source                  $package to $cache, unless it is there
#   unpack_source                 the source to $work/source
#   configure                     $fragment to $work/source/.config; die unless all of it came to be
#   lost_symbols FRAGMENT CONFIG  print what of FRAGMENT is not in CONFIG, a symbol per line
#   compile                       make $work/source/vmlinux

package_version() {
    local version
    version=$(apt-cache show --no-all-versions "$1" 2>/dev/null |
        awk '$1 == "Version:" { print $2; exit }')
    [[ -n $version ]] && printf '%s' "$version"
}

source_archive() { printf '%s' "$cache/${package}_$version.tar.xz"; }

# The archive is kept, for whoever changes the configuration; those of other versions are not.
fetch_source() {
    local archive
    archive=$(source_archive)
    [[ ! -f $archive ]] || return 0
    say "downloading $package $version (140 MB)"
    rm -f -- "$cache/$package"_*.tar.xz
    mkdir -p -- "$work/tmp"
    # _apt, as whom apt-get downloads, must be able to pass.
    chmod 711 "$work" "$work/tmp"
    TMPDIR=$work/tmp fetch_package "$package" "$work/package"
    mv -- "$work/package/usr/src/$package.tar.xz" "$archive"
}

unpack_source() {
    mkdir -- "$work/source"
    tar -xJf "$(source_archive)" -C "$work/source" --strip-components=1
}

configure() {
    local lost
    kernel_make KCONFIG_ALLCONFIG="$fragment" allnoconfig >"$work/log" 2>&1 || show_log
    lost=$(lost_symbols "$fragment" "$work/source/.config")
    [[ -z $lost ]] || die "not what $fragment asks for: ${lost//$'\n'/, }"
}

# A symbol is lost when its dependencies are missing, or when this kernel does not have it.
lost_symbols() {
    awk '
        { name = $0; sub(/^# /, "", name); sub(/[= ].*/, "", name) }
        FNR == NR && /^CONFIG_/ { config[name] = substr($0, length(name) + 2) }
        FNR == NR || /^$/ { next }
        /^CONFIG_[A-Za-z0-9_]+=./ {
            if (config[name] != substr($0, length(name) + 2))
                print name " is " (config[name] == "" ? "not set" : config[name])
            next
        }
        /^# CONFIG_[A-Za-z0-9_]+ is not set$/ { if (name in config) print name " is " config[name] }
        !/^#/ { print "line " FNR ": " $0 }
    ' "$2" "$1"
}

compile() { kernel_make vmlinux 2>&1 | watch_make || show_log; }

# Nothing of the caller's environment, the machine or the time of day gets into the kernel.
kernel_make() {
    env -i PATH="$PATH" LC_ALL=C KBUILD_BUILD_USER=vmrt KBUILD_BUILD_HOST=vmrt \
        KBUILD_BUILD_VERSION=1 \
        KBUILD_BUILD_TIMESTAMP="$(LC_ALL=C date -ud "@$(stat -c %Y -- "$(source_archive)")")" \
        nice -n 19 make -C "$work/source" -j "$(nproc)" LOCALVERSION="-${version##*-}-vmrt" "$@"
}

# Keeps what make says, and tells now and then how far it is.
watch_make() {
    local line count=0 next=$((SECONDS + 30))
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$work/log"
        [[ $line != '  CC '* ]] || ((count += 1))
        if ((SECONDS >= next)); then
            say "compiled $count files"
            next=$((SECONDS + 30))
        fi
    done
}

show_log() {
    tail -n 30 -- "$work/log" >&2
    die "cannot build the kernel: make's last lines are above"
}
