#!/usr/bin/env bash
# Build images, push them to Amazon ECR and check that SageMaker accepts what was pushed.
#
# Usage: build_and_push.sh [OPTION]...
#        build_and_push.sh --check URI     only check an image that is already in a registry
#
# An argument wins over its environment variable, and that over the default. Options marked * may be
# repeated; in their variables the values are separated by spaces.
#
#   argument           environment         default
#   --target *         IMAGE_TARGETS       train serve           (allowed: train, serve, both)
#   --accelerator *    IMAGE_ACCELERATORS  cpu                   (allowed: cpu, gpu)
#   --prefix           IMAGE_PREFIX        optml                 (image: PREFIX-TARGET-ACCELERATOR)
#   --tag              IMAGE_TAG           git describe --always --dirty, or latest outside git
#   --region           AWS_REGION, AWS_DEFAULT_REGION            aws configure get region
#   --account          ACCOUNT             aws sts get-caller-identity
#   --registry         REGISTRY            ACCOUNT.dkr.ecr.REGION.amazonaws.com (.cn for China)
#   --platform         IMAGE_PLATFORM      linux/amd64           (allowed: linux/amd64, linux/arm64)
#   --base-image       BASE_IMAGE          the Dockerfile's own
#   --build-arg K=V *  BUILD_ARGS          none
#   --dockerfile       DOCKERFILE          docker/Dockerfile beside this script
#   --no-push          NO_PUSH=1           push; with it nothing is asked of AWS
#                      CA_BUNDLE           none; a file of CA certificates that the build has to
#                                          trust, behind a company proxy (build secret "ca")
#
# All images are built before the first is pushed. Standard output carries only the image names, one
# a line, after everything succeeded; progress goes to standard error.
# Exit status: 0 done, 1 a step failed, 2 wrong arguments.
set -euo pipefail

readonly wanted_type=application/vnd.docker.distribution.manifest.v2+json
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly root

usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}"; }

say() { printf 'build_and_push.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

wrong() {
    say "$@"
    say 'type build_and_push.sh --help for all options'
    exit 2
}

# one_of NAME VALUE ALLOWED...
one_of() {
    local name=$1 value=$2 allowed
    shift 2
    for allowed; do [[ $value == "$allowed" ]] && return; done
    wrong "$name \"$value\" is unknown; allowed: $*"
}

require() {
    command -v "$1" >/dev/null || die "the program \"$1\" is missing; $2"
}

# bash 3.2, which macOS ships, takes "${empty[@]}" for an unset variable; hence ${x[@]+"${x[@]}"}.
parse() {
    targets=() accelerators=() build_args=() check=''
    prefix=${IMAGE_PREFIX:-optml} tag=${IMAGE_TAG:-} region=${AWS_REGION:-${AWS_DEFAULT_REGION:-}}
    account=${ACCOUNT:-} registry=${REGISTRY:-} platform=${IMAGE_PLATFORM:-linux/amd64}
    base_image=${BASE_IMAGE:-} dockerfile=${DOCKERFILE:-$root/docker/Dockerfile}
    ca_bundle=${CA_BUNDLE:-} no_push=${NO_PUSH:-0}
    local option value
    while (($#)); do
        option=$1
        shift
        case $option in
        -h | --help)
            usage
            exit 0
            ;;
        --no-push)
            no_push=1
            continue
            ;;
        --target | --accelerator | --prefix | --tag | --region | --account | --registry | \
            --platform | --base-image | --build-arg | --dockerfile | --check)
            (($#)) && [[ $1 ]] || wrong "$option needs a value"
            value=$1
            shift
            ;;
        --*=*) # --option=value is read as --option value
            set -- "${option%%=*}" "${option#*=}" "$@"
            continue
            ;;
        *)
            wrong "unknown option \"$option\"; allowed: --target, --accelerator, --prefix, --tag," \
                '--region, --account, --registry, --platform, --base-image, --build-arg,' \
                '--dockerfile, --no-push, --check, --help'
            ;;
        esac
        case $option in
        --target) targets+=("$value") ;;
        --accelerator) accelerators+=("$value") ;;
        --build-arg) build_args+=("$value") ;;
        --prefix) prefix=$value ;;
        --tag) tag=$value ;;
        --region) region=$value ;;
        --account) account=$value ;;
        --registry) registry=$value ;;
        --platform) platform=$value ;;
        --base-image) base_image=$value ;;
        --dockerfile) dockerfile=$value ;;
        --check) check=$value ;;
        esac
    done
    ((${#targets[@]})) || read -ra targets <<<"${IMAGE_TARGETS:-train serve}"
    ((${#accelerators[@]})) || read -ra accelerators <<<"${IMAGE_ACCELERATORS:-cpu}"
    ((${#build_args[@]})) || read -ra build_args <<<"${BUILD_ARGS:-}"
    [[ $tag ]] || tag=$(git -C "$root" describe --always --dirty 2>/dev/null) || tag=latest
}

validate() {
    local value part='[a-z0-9]+([._-][a-z0-9]+)*'
    for value in "${targets[@]}"; do
        one_of '--target (IMAGE_TARGETS)' "$value" train serve both
    done
    for value in "${accelerators[@]}"; do
        one_of '--accelerator (IMAGE_ACCELERATORS)' "$value" cpu gpu
    done
    one_of '--platform (IMAGE_PLATFORM)' "$platform" linux/amd64 linux/arm64
    one_of NO_PUSH "$no_push" 0 1
    for value in ${build_args[@]+"${build_args[@]}"}; do
        [[ $value =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] ||
            wrong "--build-arg (BUILD_ARGS) \"$value\" is not NAME=VALUE"
    done
    # ECR's limit is 256 characters, and "-train-cpu" follows.
    [[ $prefix =~ ^($part/)*$part$ && ${#prefix} -le 246 ]] ||
        wrong "--prefix (IMAGE_PREFIX) \"$prefix\" is no ECR repository name; allowed: at most" \
            '246 lower-case letters and digits, with single . _ - or / between them'
    [[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] ||
        wrong "--tag (IMAGE_TAG) \"$tag\" is no image tag; allowed: 1 to 128 letters, digits," \
            'and _ . - (not . or - at the start)'
    [[ ! $account || $account =~ ^[0-9]{12}$ ]] ||
        wrong "--account (ACCOUNT) \"$account\" is no AWS account number; allowed: 12 digits"
    [[ ! $region || $region =~ ^[a-z]+(-[a-z]+)+-[0-9]+$ ]] ||
        wrong "--region (AWS_REGION) \"$region\" is no AWS region; allowed: a name such as" \
            eu-central-1
    [[ ! $registry || $registry =~ ^[A-Za-z0-9.-]+(:[0-9]+)?$ ]] ||
        wrong "--registry (REGISTRY) \"$registry\" is no registry; allowed: HOST or HOST:PORT," \
            'without https://'
    [[ -f $dockerfile ]] ||
        wrong "--dockerfile (DOCKERFILE) \"$dockerfile\" does not exist; give the path of a file"
    [[ ! $ca_bundle || -f $ca_bundle ]] ||
        wrong "CA_BUNDLE \"$ca_bundle\" does not exist; give the path of a file of CA certificates"
}

resolve_registry() {
    [[ $no_push == 1 && ! $registry ]] && return
    # An ECR host names the account and region that its repositories and its login belong to.
    if [[ $registry =~ ^([0-9]{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\. ]]; then
        account=${BASH_REMATCH[1]} region=${BASH_REMATCH[2]}
    fi
    [[ $no_push == 0 ]] || return 0
    require aws 'install the AWS CLI: pip install awscli, or see https://aws.amazon.com/cli/'
    [[ $region ]] || region=$(aws configure get region) ||
        die 'no AWS region; type --region eu-central-1 (or yours), or export AWS_REGION=...'
    [[ $registry ]] && return
    if [[ ! $account ]]; then
        account=$(aws sts get-caller-identity --region "$region" --query Account --output text) ||
            die 'no AWS account number, see the message above; log in to AWS (aws configure, or' \
                'aws sso login), or type --account with its 12 digits'
    fi
    registry=$account.dkr.ecr.$region.amazonaws.com
    [[ $region != cn-* ]] || registry+=.cn
}

build() {
    local target=$1 accelerator=$2 uri=$3 value command
    local options=(--file "$dockerfile" --target "$target" --platform "$platform" --tag "$uri"
        --build-arg "ACCELERATOR=$accelerator")
    [[ ! $base_image ]] || options+=(--build-arg "BASE_IMAGE=$base_image")
    for value in ${build_args[@]+"${build_args[@]}"}; do options+=(--build-arg "$value"); done
    [[ ! $ca_bundle ]] || options+=(--secret "id=ca,src=$ca_bundle")
    # Attestations turn the image into an OCI index, and an engine that stores images with
    # containerd writes OCI media types unless told otherwise. SageMaker refuses both.
    if docker buildx version >/dev/null 2>&1; then
        command=(docker buildx build --provenance=false --sbom=false
            --output 'type=docker,oci-mediatypes=false')
    else
        command=(env DOCKER_BUILDKIT=1 docker build)
    fi
    say "building $uri"
    "${command[@]}" "${options[@]}" "$root" || die "the build of $uri failed; nothing was pushed"
}

ecr() {
    local verb=$1
    shift
    aws ecr "$verb" --region "$region" ${account:+--registry-id "$account"} "$@"
}

ensure_repository() {
    local repository=$1 error
    error=$(ecr describe-repositories --repository-names "$repository" 2>&1 >/dev/null) && return
    [[ $error == *RepositoryNotFoundException* ]] ||
        die "cannot look up the ECR repository $repository in $region: ${error#$'\n'}." \
            'The caller needs ecr:DescribeRepositories'
    say "creating the ECR repository $repository in $region"
    error=$(ecr create-repository --repository-name "$repository" 2>&1 >/dev/null) && return
    die "cannot create the ECR repository $repository in $region: ${error#$'\n'}." \
        'Grant the caller ecr:CreateRepository, or let an administrator create it'
}

login() {
    aws ecr get-login-password --region "$region" |
        docker login --username AWS --password-stdin "$registry" ||
        die "cannot log in to $registry, see the message above;" \
            'the caller needs ecr:GetAuthorizationToken'
}

push() {
    docker push "$1" ||
        die "the push of $1 failed, see the message above; the caller needs the ECR push actions" \
            '(as in the policy AmazonEC2ContainerRegistryPowerUser), an immutable tag a new --tag'
}

# `docker manifest inspect` is the second choice: it calls an OCI index a Docker manifest list, and
# old clients do not see OCI manifests at all.
manifest_type() {
    local uri=$1 insecure=()
    if docker buildx version >/dev/null 2>&1; then
        docker buildx imagetools inspect --format '{{printf "%s" .Manifest.MediaType}}' "$uri"
        return
    fi
    [[ ! $uri =~ ^(localhost|127\.[0-9.]+)[:/] ]] || insecure=(--insecure)
    # Only the top level counts: config and layers have media types of their own, further in.
    docker manifest inspect ${insecure[@]+"${insecure[@]}"} "$uri" |
        sed -nE $'s/^(\t|   )"mediaType": "([^"]*)".*/\\2/p'
}

check_manifest() {
    local uri=$1 type
    type=$(manifest_type "$uri") ||
        die "cannot read the manifest of $uri, see the message above; is it pushed, and is docker" \
            'logged in? (aws ecr get-login-password |' \
            "docker login --username AWS --password-stdin ${uri%%/*})"
    [[ $type == "$wanted_type" ]] && return
    die "$uri has the manifest media type ${type:-(none)}. SageMaker refuses it (\"Unsupported" \
        "manifest media type\"): it takes one image for one platform, $wanted_type." \
        'Build and push it again with build_and_push.sh; if that made it, update docker buildx,' \
        "or switch off Docker's containerd image store"
}

main() {
    exec 3>&1
    parse "$@"
    exec 1>&2
    if [[ $check ]]; then
        require docker 'install it: https://docs.docker.com/engine/install/'
        check_manifest "$check"
        printf '%s\n' "$check" >&3
        return
    fi
    validate
    require docker 'install it: https://docs.docker.com/engine/install/'
    resolve_registry

    local target accelerator repository repositories=() uris=()
    for target in "${targets[@]}"; do
        for accelerator in "${accelerators[@]}"; do
            repository=$prefix-$target-$accelerator
            repositories+=("$repository")
            uris+=("${registry:+$registry/}$repository:$tag")
            build "$target" "$accelerator" "${uris[${#uris[@]} - 1]}"
        done
    done
    if [[ $no_push == 0 ]]; then
        for repository in "${repositories[@]}"; do ensure_repository "$repository"; done
        login
        for uri in "${uris[@]}"; do
            push "$uri"
            check_manifest "$uri"
        done
    fi
    printf '%s\n' "${uris[@]}" >&3
}

main "$@"
