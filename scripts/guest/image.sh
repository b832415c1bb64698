# shellcheck shell=bash
# The files of the image and their way to the place where VMs find them. Sourced by
# ../guest-image.sh, whose variables it uses.
# shellcheck disable=SC2154
#
#   changed_since_built   true when a file of $out is missing or younger than the manifest
#   claim_out             make $out.new, called $partial from then on
#   pack_initramfs        $agent and $files to $partial/initramfs.img
#   write_manifest        print the manifest
#   replace_out           put $partial in the place of $out
#   abandon_build         remove $partial, for whatever end before that

changed_since_built() {
    local file
    for file in vmlinux initramfs.img; do
        [[ -f $out/$file && ! $out/$file -nt $out/manifest.json ]] || return 0
    done
    return 1
}

claim_out() {
    [[ ! -e $out || -e $out/manifest.json ]] || rmdir -- "$out" 2>/dev/null ||
        die "$out exists and is no guest image: not replaced"
    # Whoever holds the lock owns these names, so that what a killed run left goes here.
    rm -rf -- "$out.new" "$out.old"
    partial=$out.new
    mkdir -- "$partial"
    chmod 755 -- "$partial"
}

pack_initramfs() {
    local release of
    # The directory tells what is built in as well as what is not, so that its name must fit even
    # when it holds no module.
    release=$(kernel_release "$partial/vmlinux") of=$(basename -- "$(realpath -- "$modules")")
    [[ $of == "$release" ]] || die "$modules is of $of, $kernel of $release"
    copy_modules "$modules" "$partial/modules" "${files[@]}"
    make_initramfs "$agent" "$partial/modules" >"$partial/initramfs.img"
    rm -rf -- "$partial/modules"
    chmod 644 -- "$partial"/*
}

# `package` is empty for a kernel which was given. The names need no quoting in JSON.
write_manifest() {
    local module modules_json=
    for module in "${files[@]}"; do
        module=${module##*/}
        modules_json+="${modules_json:+, }\"${module%.ko*}\""
    done
    cat <<JSON
{
    "format": 1,
    "key": "$key",
    "kernel": {"release": "$(kernel_release "$partial/vmlinux")", "package": "$kernel_package"},
    "sha256": {
        "vmlinux": "$(digest "$partial/vmlinux")",
        "initramfs.img": "$(digest "$partial/initramfs.img")",
        "agent": "$(digest "$agent")"
    },
    "modules": [$modules_json]
}
JSON
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

# A directory cannot be renamed over another one: for a moment there is none, but never a mixed one.
replace_out() {
    [[ ! -e $out ]] || mv -T -- "$out" "$out.old"
    mv -T -- "$partial" "$out"
    rm -rf -- "$out.old"
    partial=
}

abandon_build() {
    [[ -n $partial ]] || return 0
    rm -rf -- "$partial"
    # Between the two renames the old image is all there is.
    if [[ ! -e $out && -d $out.old ]]; then
        mv -T -- "$out.old" "$out"
    fi
}
