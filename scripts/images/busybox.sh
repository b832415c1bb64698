#!/usr/bin/env bash
# Makes the image localhost/busybox:latest from Debian's busybox-static, as an OCI layout in a tar
# file for `ctr image import`. The same busybox gives the same bytes.
#
# Usage: scripts/images/busybox.sh [OUTPUT]      default: target/images/busybox.tar
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

output=$(realpath -m -- "${1:-$repo/target/images/busybox.tar}")
work=
remove_work() { rm -rf -- "$work"; }

# Installing busybox-static would remove a busybox package, which an initramfs may be made with.
find_busybox() {
    busybox=$(dpkg -L busybox-static 2>/dev/null | grep -m1 '/busybox$') && return
    fetch_package busybox-static "$work"
    busybox=$(find "$work" -path '*/bin/busybox' -type f)
}

archive() { tar --sort=name --mtime=@0 --numeric-owner --format=gnu "$@"; }

make_root() {
    local root=$1 applet
    mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,root,home/app,tmp,proc,sys,dev,run,var}
    chmod 755 "$root"/{,bin,sbin,usr,usr/bin,usr/sbin,etc,home,home/app,proc,sys,dev,run,var}
    chmod 700 "$root/root"
    chmod 1777 "$root/tmp"
    install -m 755 "$busybox" "$root/bin/busybox"
    while read -r applet; do
        [[ $applet == */busybox ]] || ln -s /bin/busybox "$root/$applet"
    done < <("$busybox" --list-full)
    printf '%s\n' root:x:0:0:root:/root:/bin/sh app:x:1000:1000:app:/home/app:/bin/sh >"$root/etc/passwd"
    printf '%s\n' root:x:0: app:x:1000: >"$root/etc/group"
    chmod 644 "$root"/etc/*
}

# Moves a file to its place among the blobs and prints its digest.
store() {
    local digest
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    mv -- "$1" "$layout/blobs/sha256/$digest"
    printf 'sha256:%s' "$digest"
}

describe() { # MEDIA_TYPE DIGEST
    printf '"mediaType":"application/vnd.oci.image.%s","digest":"%s","size":%d' \
        "$1" "$2" "$(stat -c %s "$layout/blobs/sha256/${2#sha256:}")"
}

make_layout() {
    local architecture layer config manifest
    layout=$work/layout
    mkdir -p "$layout/blobs/sha256"
    architecture=$(dpkg --print-architecture)
    # The owner is given to tar, so that no privilege is needed; 1000 owns its home only.
    archive -C "$work/root" --exclude=./home/app --owner=0 --group=0 -cf "$work/layer" .
    archive -C "$work/root" --owner=1000 --group=1000 -rf "$work/layer" ./home/app
    layer=$(store "$work/layer")
    cat >"$work/config" <<JSON
{"created":"1970-01-01T00:00:00Z","architecture":"$architecture","os":"linux",
"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"],"WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["$layer"]}}
JSON
    config=$(store "$work/config")
    cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{$(describe config.v1+json "$config")},
"layers":[{$(describe layer.v1.tar "$layer")}]}
JSON
    manifest=$(store "$work/manifest")
    cat >"$layout/index.json" <<JSON
{"schemaVersion":2,"manifests":[{$(describe manifest.v1+json "$manifest"),
"platform":{"architecture":"$architecture","os":"linux"},
"annotations":{"io.containerd.image.name":"localhost/busybox:latest","org.opencontainers.image.ref.name":"latest"}}]}
JSON
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

on_exit remove_work
work=$(mktemp -d)
find_busybox
[[ $output -nt $busybox && $output -nt ${BASH_SOURCE[0]} ]] && exit 0
make_root "$work/root"
make_layout
mkdir -p "$(dirname -- "$output")"
archive -C "$layout" --owner=0 --group=0 --mode=u=rwX,go=rX -cf "$work/image" .
# Beside its place first: a reader sees a whole file or none.
cp -- "$work/image" "$output.$$"
mv -- "$output.$$" "$output"
say "made $output ($(du -h "$output" | cut -f 1))"
