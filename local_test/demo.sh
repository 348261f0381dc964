#!/usr/bin/env bash
# Train on the messages that ship with the project, serve the model, ask it, and stop it.
#
# Usage: demo.sh
#
# Where a Docker engine answers, the images are built and used; otherwise the bare programs run, under
# the same contract.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly port=${PORT:-8080}
train_image=() serve_image=()

step() { printf '\n== %s\n' "$*"; }

if docker info >/dev/null 2>&1; then
    step 'building the images'
    (cd "$root" && ./build_and_push.sh --no-push --tag demo)
    train_image=(optml-train-cpu:demo) serve_image=(optml-serve-cpu:demo)
else
    step 'no Docker engine answers: running the bare programs'
fi

step 'training on local_test/data/messages.csv'
"$here/train_local.sh" ${train_image[@]+"${train_image[@]}"}

step 'serving the model'
"$here/serve_local.sh" ${serve_image[@]+"${serve_image[@]}"} --port "$port" --detach
trap '"$here/serve_local.sh" --stop --port "$port"' EXIT

step 'asking it'
for text in \
    'Flood water is rising in the old town, families wait on their roofs' \
    'My inbox is flooded with holiday photos again' \
    'Two trains collided outside the station, dozens are injured' \
    'That concert was an absolute blast'; do
    printf '%-70s ' "$text"
    "$here/predict.sh" "{\"inputs\": \"$text\"}" --port "$port"
    echo
done

step 'done: the answers above came over HTTP; stopping the server'
