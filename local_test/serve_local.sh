#!/usr/bin/env bash
# Serve the model of local_test/opt_ml on this machine as SageMaker hosts it.
#
# Usage: serve_local.sh [IMAGE] [--port PORT] [--env NAME=VALUE]... [--detach]
#        serve_local.sh --stop [--port PORT]
#
#   IMAGE              left out, the program of this repository runs without a container:
#                      python -m serve
#   --port PORT        where it listens, on 127.0.0.1 only (default: 8080)
#   --env NAME=VALUE   an entry of the model's Environment; may be repeated
#   --detach           return as soon as /ping answers 200, which SageMaker gives 8 minutes
#   --stop             stop what --detach started on this port
#
#   serve_local.sh optml-serve-cpu:latest
#   serve_local.sh optml-serve-cpu:latest --port 9000 --detach
#   serve_local.sh --stop --port 9000
#
# The model is $OPT_ML/model (default: local_test/opt_ml/model), where train_local.sh leaves it.
# A container sees it read-only, and can write nowhere but in /tmp. Ctrl-C and SIGTERM stop the server
# as SageMaker does: SIGTERM, and SIGKILL 30 s later. $PYTHON is the interpreter (default:
# .venv/bin/python of this repository if there is one, otherwise python3).
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly start_limit=480 grace_period=30

parse() {
    image='' port=8080 action=foreground environment=()
    local value
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --port)
            port=$(value_of "$@")
            check_port "$port"
            shift
            ;;
        --env)
            value=$(value_of "$@")
            check_environment "$value"
            environment+=("$value")
            shift
            ;;
        --detach) action=detach ;;
        --stop) action=stop ;;
        -*) wrong "unknown option \"$1\"; allowed: --port, --env, --detach, --stop, --help" ;;
        *)
            [[ ! $image ]] || wrong "two images: \"$image\" and \"$1\""
            image=$1
            ;;
        esac
        shift
    done
    name=optml-serve-$port
    pid_file=$opt_ml/$name.pid
    log=$opt_ml/$name.log
}

check_model() {
    [[ -d $opt_ml/model && $(ls -A "$opt_ml/model") ]] ||
        die "there is no model in $opt_ml/model; train one with $here/train_local.sh, or set OPT_ML"
    opt_ml=$(cd "$opt_ml" && pwd)
}

check_port_is_free() {
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        die "port $port is in use; type --port with another one, or, if $0 --detach started that" \
            "server: $0 --stop --port $port"
    fi
}

# docker_run OPTION...
docker_run() {
    local value variables=()
    for value in ${environment[@]+"${environment[@]}"}; do variables+=(--env "$value"); done
    docker run "$@" --name "$name" --read-only --tmpfs /tmp \
        --volume "$opt_ml/model:/opt/ml/model:ro" --publish "127.0.0.1:$port:8080" \
        ${variables[@]+"${variables[@]}"} "$image" serve
}

foreground() {
    local rc=0
    container=''
    if [[ $image ]]; then
        container=$name
        say "container $container, http://127.0.0.1:$port; Ctrl-C stops it"
        supervise "$grace_period" docker_run --rm || rc=$?
    else
        say "http://127.0.0.1:$port; Ctrl-C stops it"
        supervise "$grace_period" bare "SAGEMAKER_BASE_DIR=$opt_ml" OPTML_HOST=127.0.0.1 \
            "SAGEMAKER_BIND_TO_PORT=$port" ${environment[@]+"${environment[@]}"} \
            "$python" -m serve || rc=$?
    fi
    exit "$rc"
}

detach() {
    local deadline=$((SECONDS + start_limit))
    trap 'stop || true; exit 130' INT TERM HUP
    if [[ $image ]]; then
        # Without --rm the log outlives a server that ends at start-up.
        docker_run --detach >/dev/null
        say "container $name"
    else
        nohup env ${environment[@]+"${environment[@]}"} \
            bash "${BASH_SOURCE[0]}" --port "$port" >"$log" 2>&1 </dev/null &
        printf '%s\n' "$!" >"$pid_file"
        say "process $!, log in $log"
    fi
    until answers_ping; do
        is_running || give_up 'the server ended before /ping answered 200'
        ((SECONDS < deadline)) ||
            give_up "/ping did not answer 200 within 8 minutes, SageMaker's limit"
        sleep 0.5
    done
    say "serving at http://127.0.0.1:$port; to stop it type: $0 --stop --port $port"
}

answers_ping() {
    [[ $(curl --silent --noproxy '*' --max-time 2 --output /dev/null --write-out '%{http_code}' \
        "http://127.0.0.1:$port/ping") == 200 ]]
}

is_running() {
    if [[ $image ]]; then
        [[ $(docker inspect --format '{{.State.Running}}' "$name") == true ]]
    else
        own_process >/dev/null
    fi
}

give_up() {
    if [[ $image ]]; then docker logs "$name" >&2; else cat "$log" >&2; fi
    stop || true
    die "$1, see the log above"
}

# Print the number of the process that --detach started. The number alone could by now be another's.
own_process() {
    local pid
    [[ -f $pid_file ]] && pid=$(<"$pid_file") &&
        [[ $(ps -o args= -p "$pid") == *"serve_local.sh --port $port" ]] && printf '%s\n' "$pid"
}

# Return 1 when there is nothing to stop.
stop() {
    local pid found=1
    if pid=$(own_process); then
        # The process is this script in the foreground, which keeps to the grace period itself.
        kill -TERM "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
        found=0
    fi
    rm -f "$pid_file"
    if command -v docker >/dev/null && docker inspect "$name" >/dev/null 2>&1; then
        docker stop -t "$grace_period" "$name" >/dev/null
        docker rm "$name" >/dev/null 2>&1 || true
        found=0
    fi
    return "$found"
}

parse "$@"
if [[ $action == stop ]]; then
    stop || die "nothing to stop: no container $name, and no process in $pid_file"
    exit
fi
check_model
[[ ! $image ]] || require_engine "$image"
check_port_is_free
# A detached server that has ended by itself still has its name.
[[ ! $image ]] || docker rm "$name" >/dev/null 2>&1 || true
"$action"
