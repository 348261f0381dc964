#!/usr/bin/env bash
# Ask the server of serve_local.sh for a prediction, as SageMaker's InvokeEndpoint does.
#
# Usage: predict.sh PAYLOAD [CONTENT_TYPE] [--port PORT]
#
#   PAYLOAD        a file, or the text itself if it starts with { [ or "
#   CONTENT_TYPE   default: application/json
#   --port PORT    default: 8080
#
#   predict.sh local_test/payload.json
#   predict.sh '{"inputs": "The river has burst its banks"}'
#   predict.sh messages.csv text/csv --port 9000
#
# The answer goes to standard output. An answer with a status of 400 or more goes to standard error,
# and the exit status is 1; it is 2 for wrong arguments.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse() {
    payload='' content_type='' port=8080
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
        -*) wrong "unknown option \"$1\"; allowed: --port, --help" ;;
        *)
            [[ ! $content_type ]] || wrong "\"$1\" after the content type \"$content_type\""
            if [[ $payload ]]; then content_type=$1; else payload=$1; fi
            ;;
        esac
        shift
    done
    [[ $payload ]] || wrong 'no payload; give a file or a JSON text'
    [[ -f $payload || $payload == [\{\[\"]* ]] ||
        wrong "\"$payload\" is neither a file nor a text that starts with { [ or \""
}

send() {
    # Without "Expect:" curl holds a large body back for a second.
    curl --silent --show-error --noproxy '*' --max-time 60 --output "$answer" \
        --write-out '%{http_code}' --header 'Expect:' --header "Content-Type: $content_type" \
        --data-binary @- "http://127.0.0.1:$port/invocations"
}

parse "$@"
: "${content_type:=application/json}"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

rc=0
if [[ -f $payload ]]; then
    status=$(send <"$payload") || rc=$?
else
    status=$(printf '%s' "$payload" | send) || rc=$?
fi
case $rc in
0) ;;
7) die "nothing listens on port $port; start a server: $here/serve_local.sh --detach --port $port" ;;
28) die 'no answer within 60 s, when SageMaker gives up too' ;;
*) die "curl failed with exit status $rc, see the message above" ;;
esac

if ((status >= 400)); then
    cat "$answer" >&2
    die "status $status"
fi
cat "$answer"
[[ ! -t 1 ]] || echo
