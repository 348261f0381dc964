# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts beside this file, which source it, use what it sets

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
opt_ml=${OPT_ML:-$here/opt_ml}
python=${PYTHON:-}
[[ $python ]] || python=$root/.venv/bin/python
[[ ${PYTHON:-} || -x $python ]] || python=python3

usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

die() {
    say "$@"
    exit 1
}

wrong() {
    say "$@"
    say "type $0 --help for all arguments"
    exit 2
}

# value_of OPTION [VALUE]...  prints the value
value_of() {
    (($# > 1)) && [[ $2 ]] || wrong "$1 needs a value"
    printf '%s\n' "$2"
}

check_port() {
    [[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -lt 65536 ]] ||
        wrong "--port \"$1\" is no port; allowed: 1 to 65535"
}

check_environment() {
    [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || wrong "--env \"$1\" is not of the form NAME=VALUE"
}

require_engine() {
    local error bare="to run the bare program on this machine, leave the image \"$1\" out"
    command -v docker >/dev/null ||
        die "the program docker is missing (https://docs.docker.com/engine/install/); $bare"
    error=$(docker version 2>&1 >/dev/null) || die "no Docker engine answers: $error; $bare"
}

# supervise GRACE COMMAND...
# Run a command as the platform runs a container: a stop is SIGTERM, and SIGKILL after GRACE
# seconds. The command is the docker client when $container is set, otherwise the program itself.
# The exit status is the command's; $stopped tells whether there was a stop.
supervise() {
    local rc=0
    grace=$1 stopped=0 interrupted=0
    shift
    # In a process group of its own the command does not get the terminal's Ctrl-C.
    set -m
    "$@" </dev/null &
    child=$!
    set +m
    trap stop_child INT TERM HUP
    wait "$child" || rc=$?
    # A signal ends the wait before the command has ended.
    while ((interrupted)); do
        interrupted=0 rc=0
        wait "$child" || rc=$?
    done
    trap - INT TERM HUP
    # A container takes all its processes with it.
    kill -KILL -- "-$child" 2>/dev/null || true
    return "$rc"
}

stop_child() {
    stopped=1 interrupted=1
    say "stopping as SageMaker does: SIGTERM now, SIGKILL after $grace s"
    if [[ ${container:-} ]]; then
        docker stop -t "$grace" "$container" >/dev/null || kill -TERM "$child" || true
    else
        stop_process || true
    fi
}

stop_process() {
    local deadline=$((SECONDS + grace))
    kill -TERM "$child" || return
    while kill -0 "$child" 2>/dev/null; do
        ((SECONDS < deadline)) || kill -KILL -- "-$child"
        sleep 0.1
    done
}

# bare NAME=VALUE... COMMAND...
bare() {
    cd "$root" || exit
    exec env "$@"
}
