#!/usr/bin/env bash
# A private containerd with vmrt as a runtime, apart from any containerd which the machine runs.
#
# Usage: scripts/containerd.sh up            start it and import localhost/busybox:latest
#        scripts/containerd.sh ctr ARGS…     ctr against it, namespace vmrt-dev unless set otherwise
#        scripts/containerd.sh status        exit code 0 when it answers
#        scripts/containerd.sh down          end its containers, stop it, remove all it left
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/lib/daemon.sh
source "$repo/scripts/lib/daemon.sh"
# shellcheck source=scripts/lib/teardown.sh
source "$repo/scripts/lib/teardown.sh"

starting=

up() {
    if daemon_answers; then
        say "already up: $socket"
    else
        need_daemon
        write_configuration
        starting=yes
        on_exit abandon_start
        start_daemon
    fi
    import_image
    starting=
    say "up: $socket"
    [[ -x $repo/target/release/containerd-shim-vmrt-v2 ]] ||
        say "the shim is not built yet: run scripts/build.sh before using the runtime"
}

# A daemon of which `up` could not say that it is up does not stay.
abandon_start() {
    [[ -z $starting ]] || stop_daemon
}

import_image() {
    local name=localhost/busybox:latest
    [[ $(ctr -a "$socket" image list -q "name==$name") != "$name" ]] || return 0
    "$repo/scripts/images/busybox.sh"
    ctr_quietly image import "$repo/target/images/busybox.tar"
}

down() {
    if [[ ! -e $run && ! -e $data ]]; then
        say "not up"
        return
    fi
    # Only the daemon knows how to end its tasks: should it have died before them, it is started again.
    if ! daemon_answers && compgen -G "$run/state/io.containerd.runtime.v2.task/*/*" >/dev/null; then
        start_daemon
    fi
    if daemon_answers; then
        remove_containers
    fi
    stop_daemon
    end_shims
    remove_directories
    say "down"
}

status() {
    daemon_answers || die "not up: nothing answers at $socket"
    say "up: pid $(<"$run/pid"), $socket, log $run/containerd.log"
}

(($#)) || set -- ''
command=$1
shift
case $command in
    up | down)
        ((EUID == 0)) || die "$command needs root"
        with_lock /run/lock/vmrt-dev.lock "$command"
        ;;
    status) status ;;
    ctr) exec ctr -a "$socket" "$@" ;;
    *) die "usage: $0 up|down|status|ctr ARGS…" ;;
esac
