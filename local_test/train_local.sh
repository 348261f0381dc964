#!/usr/bin/env bash
# Run a training job on this machine as SageMaker runs it.
#
# Usage: train_local.sh [IMAGE] [OPTION]... [CHANNEL=PATH]... [-- HYPERPARAMETER=VALUE...]
#
#   IMAGE                     the first argument without "="; left out, the program of this
#                             repository runs without a container: python -m train
#   CHANNEL=PATH              a file or directory for a channel
#                             (default, when no channel is named: train=local_test/data/messages.csv)
#   HYPERPARAMETER=VALUE      all arrive as strings
#   --content-type CHANNEL=TYPE   --quoting plain|sdk-v2   --source DIR   --entry-point FILE
#   --env NAME=VALUE          see python -m local_test train --help
#   --keep-checkpoints        of the earlier job, as after a spot interruption
#
#   train_local.sh optml-train-cpu:latest
#   train_local.sh optml-train-cpu:latest train=data/train.csv test=data/test.csv -- epochs=2 lr=3e-5
#   train_local.sh -- n_estimators=20
#   train_local.sh optml-train-cpu:latest --source my_code train=data -- epochs=3
#
# This is the short form of python -m local_test train, which can do more. The tree that becomes /opt/ml
# is local_test/opt_ml, or $OPT_ML. It is emptied first. Afterwards it holds model/, model.tar.gz,
# output/ and job.json. $PYTHON is the interpreter (default: .venv/bin/python of this repository if
# there is one, otherwise python3).
#
# A container has no network. Ctrl-C and SIGTERM stop the job as SageMaker does: SIGTERM, and SIGKILL
# 120 s later. The exit status is the job's own; 2 also stands for wrong arguments.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse() {
    image='' channels=() options=()
    local value
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --content-type | --quoting | --env | --source | --entry-point)
            value=$(value_of "$@")
            options+=("$1" "$value")
            shift
            ;;
        --keep-checkpoints) options+=(--checkpoints "$opt_ml/checkpoints") ;;
        --)
            shift
            for value; do options+=(--hyperparameter "$value"); done
            return
            ;;
        -*)
            wrong "unknown option \"$1\"; allowed: --content-type, --quoting, --keep-checkpoints," \
                '--source, --entry-point, --env, --help; hyperparameters come after --'
            ;;
        *=*) channels+=(--data "$1") ;;
        *)
            [[ ! $image ]] || wrong "\"$1\" after the image \"$image\" is no CHANNEL=PATH"
            [[ ! -e $1 ]] || wrong "\"$1\" is a path, not an image; to train on it type train=$1"
            image=$1
            ;;
        esac
        shift
    done
}

parse "$@"
((${#channels[@]})) || channels=(--data "train=$here/data/messages.csv")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# -P: the working directory may have a local_test of somebody else's.
exec "$python" -P -m local_test train ${image:+"$image"} --output "$opt_ml" "${channels[@]}" \
    ${options[@]+"${options[@]}"}
