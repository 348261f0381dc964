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
#   --content-type CHANNEL=TYPE   --quoting plain|sdk-v2   --keep-checkpoints
#                             see opt_ml.py --help
#   --source DIR              run this directory's code, packed and sent as the SageMaker SDK 2 does
#   --entry-point FILE        what to start in it (default: train.py)
#   --env NAME=VALUE          an entry of the job's Environment; may be repeated
#
#   train_local.sh optml-train-cpu:latest
#   train_local.sh optml-train-cpu:latest train=data/train.csv test=data/test.csv -- epochs=2 lr=3e-5
#   train_local.sh -- n_estimators=20
#   train_local.sh optml-train-cpu:latest --source my_code train=data -- epochs=3
#
# The tree that becomes /opt/ml is local_test/opt_ml, or $OPT_ML. It is emptied first. Afterwards it
# holds model/, model.tar.gz and output/. $PYTHON is the interpreter (default: .venv/bin/python of
# this repository if there is one, otherwise python3).
#
# A container has no network. Ctrl-C and SIGTERM stop the job as SageMaker does: SIGTERM, and SIGKILL
# 120 s later. The exit status is the job's own; 2 also stands for wrong arguments.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse() {
    image='' container='' source='' entry_point='' packed=''
    channels=() tree_options=() environment=() hyperparameters=()
    local value
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --content-type | --quoting)
            value=$(value_of "$@")
            tree_options+=("$1" "$value")
            shift
            ;;
        --env)
            value=$(value_of "$@")
            check_environment "$value"
            environment+=("$value")
            shift
            ;;
        --source)
            source=$(value_of "$@")
            [[ -d $source ]] || wrong "--source \"$source\" is no directory"
            shift
            ;;
        --entry-point)
            entry_point=$(value_of "$@")
            shift
            ;;
        --keep-checkpoints) tree_options+=("$1") ;;
        --)
            shift
            for value; do hyperparameters+=(--hyperparameter "$value"); done
            return
            ;;
        -*)
            wrong "unknown option \"$1\"; allowed: --content-type, --quoting, --keep-checkpoints," \
                '--source, --entry-point, --env, --help; hyperparameters come after --'
            ;;
        *=*) channels+=(--channel "$1") ;;
        *)
            [[ ! $image ]] || wrong "\"$1\" after the image \"$image\" is no CHANNEL=PATH"
            [[ ! -e $1 ]] || wrong "\"$1\" is a path, not an image; to train on it type train=$1"
            image=$1
            ;;
        esac
        shift
    done
}

# As version 2 of the SDK sends code to a job that has no network.
pack_source() {
    [[ ! $entry_point || $source ]] || wrong '--entry-point needs --source'
    [[ $source ]] || return 0
    entry_point=${entry_point:-train.py}
    [[ -f $source/$entry_point || -f $source/setup.py || -d $source/$entry_point ]] ||
        wrong "there is no $entry_point in $source; name the file to start: --entry-point FILE"
    packed=$(mktemp -d)
    trap 'rm -rf "$packed"' EXIT
    tar -C "$source" --exclude .git --exclude __pycache__ -czf "$packed/sourcedir.tar.gz" .
    [[ $opt_ml == /* ]] || opt_ml=$PWD/$opt_ml
    local submitted=$opt_ml/input/data/code/sourcedir.tar.gz
    [[ ! $image ]] || submitted=/opt/ml/input/data/code/sourcedir.tar.gz
    channels+=(--channel "code=$packed/sourcedir.tar.gz")
    hyperparameters+=(--hyperparameter "sagemaker_program=$entry_point"
        --hyperparameter "sagemaker_submit_directory=$submitted")
}

run_job() {
    local value job variables=()
    job=local-$(date -u +%Y-%m-%d-%H-%M-%S)-$$
    region=${AWS_REGION:-us-east-1}
    environment=(
        "TRAINING_JOB_NAME=$job"
        "TRAINING_JOB_ARN=arn:aws:sagemaker:$region:123456789012:training-job/$job"
        "AWS_REGION=$region"
        ${environment[@]+"${environment[@]}"}
    )
    if [[ ! $image ]]; then
        supervise 120 bare "SAGEMAKER_BASE_DIR=$opt_ml" "${environment[@]}" "$python" -m train
        return
    fi
    container=optml-train-$$
    say "container $container"
    for value in "${environment[@]}"; do variables+=(--env "$value"); done
    supervise 120 docker run --rm --name "$container" --network none \
        --hostname algo-1 --add-host algo-1:127.0.0.1 \
        --volume "$opt_ml:/opt/ml" "${variables[@]}" "$image" train
}

report_failure() {
    local rc=$1 reason
    if [[ -s $opt_ml/output/failure ]]; then
        reason=$(<"$opt_ml/output/failure")
        say "exit status $rc; FailureReason: ${reason:0:1024}"
    else
        say "exit status $rc, and no reason in /opt/ml/output/failure: read the log above"
    fi
}

pack() (
    cd "$opt_ml/model"
    shopt -s dotglob nullglob
    files=(*)
    if ((${#files[@]} == 0)); then
        say 'the job left /opt/ml/model empty: there is no model.tar.gz'
        return
    fi
    tar -czf ../model.tar.gz -- "${files[@]}" ||
        die "cannot pack $opt_ml/model; if its files are the container's root's, type:" \
            "sudo chown -R \"\$USER\" $opt_ml"
    say "the model is in $opt_ml/model, and packed in $opt_ml/model.tar.gz"
)

parse "$@"
((${#channels[@]})) || channels=(--channel "train=$here/data/messages.csv")
pack_source
[[ ! $image ]] || require_engine "$image"
"$python" "$here/opt_ml.py" "$opt_ml" "${channels[@]}" \
    ${tree_options[@]+"${tree_options[@]}"} ${hyperparameters[@]+"${hyperparameters[@]}"}
opt_ml=$(cd "$opt_ml" && pwd)

rc=0
run_job || rc=$?
((rc == 0)) || report_failure "$rc"
# SageMaker uploads the model of a stopped job too.
if ((rc == 0 || stopped)); then pack; fi
exit "$rc"
