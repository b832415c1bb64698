# shellcheck shell=bash
# Shared by the scripts next to it: source it, do not run it. See also lib/packages.sh.
#
#   repo                    the repository's root
#   say MESSAGE…            progress on stderr, with the seconds since the start
#   die MESSAGE…            one line on stderr, exit 1
#   with_lock FILE COMMAND… run COMMAND while holding FILE's lock; waits for it $lock_wait seconds, or
#                           ten minutes
#   on_exit FUNCTION        run FUNCTION however the script ends, signals included
#   run COMMAND…            run COMMAND so that a signal to the script ends it with all its children

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
program=$(basename -- "$0" .sh)
running=

# shellcheck source=scripts/lib/packages.sh
source "$repo/scripts/lib/packages.sh"

say() { printf '[%s %3ds] %s\n' "$program" "$SECONDS" "$*" >&2; }

die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit 1
}

with_lock() {
    local file=$1 wait=${lock_wait:-600}
    shift
    mkdir -p -- "$(dirname -- "$file")"
    exec 9>"$file"
    flock -w "$wait" 9 || die "$file is still locked after $wait s"
    # Closed for the command: a daemon which it starts would keep the lock for ever.
    "$@" 9>&-
    exec 9>&-
}

on_exit() {
    # shellcheck disable=SC2064  # the name given now is meant
    trap "trap '' INT TERM HUP; end_running; $1" EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# The command gets a process group of its own and the script waits for it with the `wait` builtin,
# so that a signal is handled at once and not after the command.
run() {
    local status=0
    set -m
    "$@" </dev/null &
    running=$!
    set +m
    wait "$running" || status=$?
    running=
    return "$status"
}

# Sends SIGTERM to the group of what `run` started, and SIGKILL to what is left after ten seconds.
end_running() {
    local deadline=$((SECONDS + 10))
    [[ -n $running ]] && kill -TERM -- "-$running" 2>/dev/null || return 0
    while ((SECONDS < deadline)) && kill -0 "$running" 2>/dev/null; do
        sleep 0.1
    done
    kill -KILL -- "-$running" 2>/dev/null || true
}
