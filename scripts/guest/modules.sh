# shellcheck shell=bash
# Which module files the guest needs, and in which order. Sourced by ../guest-image.sh
# and ../build-kernel.sh.
# shellcheck disable=SC2154  # program comes from lib.sh
#
#   resolve_modules DIR LIST        print the files below DIR, dependencies first
#   copy_modules DIR TARGET FILE…   copy them as TARGET/NN-NAME.ko with the file TARGET/order

# DIR is a /lib/modules/RELEASE with modules.dep and modules.builtin, LIST is the file `modules`.
resolve_modules() {
    local dir=$1 list=$2 file
    for file in "$dir/modules.dep" "$dir/modules.builtin" "$list"; do
        [[ -r $file ]] || die "cannot read $file"
    done
    awk -v dir="$dir" -v program="$program" '
        # A module is called a_b, its file may be called a-b.ko.xz.
        function name(path) {
            sub(/.*\//, "", path)
            sub(/\.ko(\.[a-z0-9]+)?$/, "", path)
            gsub(/-/, "_", path)
            return path
        }
        # modules.dep gives all that a module needs, the deepest last.
        function load(module,    i, count, needs) {
            count = split(depends[module], needs, " ")
            for (i = count; i >= 1; i--)
                print_once(needs[i])
            print_once(path[module])
        }
        function print_once(file) {
            if (!(file in printed))
                print file
            printed[file]
        }
        FILENAME ~ /\/modules\.builtin$/ { builtin[name($1)]; next }
        FILENAME ~ /\/modules\.dep$/ {
            file = $1
            sub(/:$/, "", file)
            path[name(file)] = file
            $1 = ""
            depends[name(file)] = $0
            next
        }
        { sub(/#.*/, "") }
        NF == 0 { next }
        $1 in path { load($1); next }
        !($1 in builtin) && $2 != "optional" { missing = missing " " $1 }
        END {
            if (missing) {
                print program ": " dir " has neither module nor builtin:" missing >"/dev/stderr"
                exit 1
            }
        }
    ' "$dir/modules.builtin" "$dir/modules.dep" "$list"
}

copy_modules() {
    local dir=$1 target=$2 path file number=0
    shift 2
    mkdir -p -- "$target"
    for path in "$@"; do
        printf -v file '%02d-%s' "$((number += 1))" "${path##*/}"
        file=${file%.ko*}.ko
        case $path in
            *.ko) cat ;;
            *.ko.xz) xz -dc ;;
            *.ko.zst) zstd -dc ;;
            *.ko.gz) gzip -dc ;;
            *) die "$path: unknown compression of a module" ;;
        esac <"$dir/$path" >"$target/$file" || die "cannot unpack $dir/$path"
        printf '%s\n' "$file"
    done >"$target/order"
}
