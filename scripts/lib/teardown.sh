# shellcheck shell=bash
# Takes away what the private containerd and its shims leave. Sourced by ../containerd.sh.
# shellcheck disable=SC2154  # run, data and socket come from daemon.sh

remove_containers() {
    local namespace id
    for namespace in $(ctr -a "$socket" namespaces list -q); do
        for id in $(ctr -a "$socket" -n "$namespace" tasks list -q); do
            timeout 20 ctr -a "$socket" -n "$namespace" tasks delete --force "$id" >/dev/null 2>&1 ||
                say "task $id in $namespace does not end"
        done
        for id in $(ctr -a "$socket" -n "$namespace" containers list -q); do
            timeout 10 ctr -a "$socket" -n "$namespace" containers delete "$id" >/dev/null ||
                say "container $id in $namespace cannot be removed"
        done
    done
}

# What outlived its daemon: shims are told from other daemons' by the address which they report to.
# As the daemon would, it lets the shim's own `delete` take away what a killed one left.
end_shims() {
    local process shim bundle arguments
    for process in /proc/[0-9]*; do
        shim=$(readlink "$process/exe") || continue
        [[ $shim == */containerd-shim-* ]] || continue
        mapfile -t arguments < <(tr '\0' '\n' 2>/dev/null <"$process/cmdline")
        [[ " ${arguments[*]} " == *" -address $socket "* ]] || continue
        say "killing shim ${process#/proc/}, which outlived its daemon"
        kill -KILL "${process#/proc/}" 2>/dev/null || true
        bundle=$(argument -namespace)/$(argument -id)
        bundle=$run/state/io.containerd.runtime.v2.task/$bundle
        (cd -- "$bundle" && timeout 10 "$shim" "${arguments[@]:1}" -bundle "$bundle" delete >/dev/null 2>&1) ||
            say "$shim cannot delete $bundle"
    done
}

# Prints what follows an option in the arguments of the caller.
argument() {
    local index
    for index in "${!arguments[@]}"; do
        [[ ${arguments[index]} != "$1" ]] || printf '%s' "${arguments[index + 1]}"
    done
}

remove_directories() {
    local target address
    # Sockets which a killed shim could not remove; they live outside, in a directory of all daemons.
    for address in "$run"/state/io.containerd.runtime.v2.task/*/*/address; do
        [[ ! -e $address ]] || rm -f -- "$(sed 's,^unix://,,' "$address")"
    done
    while read -r target; do
        umount -l -- "$target" || say "cannot unmount $target"
    done < <(cut -d ' ' -f 5 /proc/self/mountinfo | grep -E "^($run|$data)/" | tac)
    if grep -qE " ($run|$data)/" /proc/self/mountinfo; then
        die "mounts are left below $run or $data"
    fi
    rm -rf -- "$run" "$data"
    # Empty parents which runc makes per namespace, and does not remove.
    rmdir /run/containerd/runc/vmrt-dev /sys/fs/cgroup/{,*/}vmrt-dev 2>/dev/null || true
}
