# shellcheck shell=bash
# The life of the private containerd. Sourced by ../containerd.sh.
# shellcheck disable=SC2154  # repo comes from lib.sh

run=/run/vmrt-dev
# On disk, for /run is small and often mounted noexec.
data=/var/lib/vmrt-dev
socket=$run/containerd.sock
export CONTAINERD_NAMESPACE=${CONTAINERD_NAMESPACE:-vmrt-dev}
# overlayfs cannot have its upper directory on another overlayfs.
if [[ $(stat -f -c %T /var/lib) == overlayfs ]]; then
    export CONTAINERD_SNAPSHOTTER=${CONTAINERD_SNAPSHOTTER:-native}
fi

# A number in a file may belong to another process by now: the program and its configuration decide.
daemon_pid() {
    local pid
    pid=$(cat "$run/pid" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
    [[ $(readlink "/proc/$pid/exe") == */containerd* ]] &&
        tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$run/containerd.toml" &&
        printf '%s' "$pid"
}

daemon_answers() { daemon_pid >/dev/null && timeout 2 ctr -a "$socket" version >/dev/null 2>&1; }

write_configuration() {
    mkdir -p "$run/bin" "$data"
    chmod 711 "$run" "$data"
    ln -sfn "$repo/target/release/containerd-shim-vmrt-v2" "$run/bin/containerd-shim-vmrt-v2"
    # Its templates go with it.
    printf '%s = "%s"\n' guest_image "$repo/target/guest-image" template_dir "$run/templates" >"$run/config.toml"
    # The disabled plugins would claim places that another containerd uses: CRI's and NRI's sockets,
    # and /opt/containerd.
    cat >"$run/containerd.toml" <<TOML
version = 2
root = "$data"
state = "$run/state"
disabled_plugins = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
]
[grpc]
address = "$socket"
TOML
}

ctr_quietly() {
    local output
    output=$(timeout 60 ctr -a "$socket" "$@" 2>&1) || die "ctr $*: $output"
}

start_daemon() {
    local deadline=$((SECONDS + 30))
    # Its own session, out of reach of the terminal's signals. The shell writes the number which the
    # daemon then has, so that there is no moment at which it runs unrecorded.
    # shellcheck disable=SC2016  # the inner shell expands it
    PATH=$run/bin:$PATH VMRT_CONFIG=$run/config.toml setsid bash -c \
        'echo $$ >"$1/pid"; exec containerd --config "$1/containerd.toml"' containerd "$run" \
        </dev/null >>"$run/containerd.log" 2>&1 &
    until daemon_answers; do
        kill -0 $! 2>/dev/null || die "containerd ended at its start: $(tail -n 1 "$run/containerd.log")"
        ((SECONDS < deadline)) || die "containerd does not answer after 30 s; see $run/containerd.log"
        sleep 0.1
    done
}

stop_daemon() {
    local pid deadline=$((SECONDS + 10))
    pid=$(daemon_pid) || return 0
    kill -TERM "$pid" 2>/dev/null || true
    while daemon_pid >/dev/null; do
        ((SECONDS < deadline)) || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.1
    done
}
