# Everything that this repository can do for a developer. `make` alone lists it.

PYTHON ?= python3
TAG ?= test
# Certificates that image builds need behind a company proxy; see build_and_push.sh --help.
export CA_BUNDLE ?= $(SSL_CERT_FILE)

bin := .venv/bin
# Files of tests side by side, as many of them wait for containers and processes to end.
pytest := $(bin)/pytest -n 2 --dist loadfile
engine := $(shell docker info >/dev/null 2>&1 && echo yes)

.PHONY: help setup wheelhouse images demo lint unit test bench-accuracy bench-train bench-serve bench-soak bench-images lock clean sdks

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(bin)/ready ## prepare .venv with what requirements.txt pins

$(bin)/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --no-deps --require-hashes --requirement requirements.txt || \
		{ echo 'If it was torch+cpu that is missing, see docker/wheelhouse/README.md' >&2; exit 1; }
	touch $@

wheelhouse: setup ## fetch the CPU wheel of torch for image builds
	@ls docker/wheelhouse/torch-*.whl >/dev/null 2>&1 || { \
		awk '/^torch==/ { on = 1 } on { print } on && !/\\$$/ { exit }' docker/locks/train-cpu.txt \
			> $(bin)/torch.txt && \
		$(bin)/pip download --quiet --no-deps --require-hashes --requirement $(bin)/torch.txt \
			--dest docker/wheelhouse; }

images: wheelhouse ## build the three CPU images as optml-*-cpu:$(TAG)
	./build_and_push.sh --no-push --target train --target serve --target both --tag $(TAG)

sdks: .venv-sdk2/ready .venv-sdk3/ready ## prepare the SageMaker SDKs, which tests drive the images with

.venv-sdk%/ready: tests/container/sdk-v%.txt | setup
	$(bin)/uv venv --quiet --clear --python $(bin)/python .venv-sdk$*
	$(bin)/uv pip install --quiet --python .venv-sdk$*/bin/python --no-deps --requirement $<
	touch $@

demo: setup $(if $(engine),wheelhouse) ## train on the messages that ship here, serve, ask, stop
	local_test/demo.sh

lint: setup ## ruff, mypy --strict, shellcheck, hadolint
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/shellcheck --external-sources build_and_push.sh docker/lock docker/make-venv \
		local_test/*.sh .ci/run .ci/engine
	$(bin)/hadolint docker/Dockerfile

unit: setup ## the tests that need no Docker engine
	$(pytest) -m 'not container'

test: lint $(if $(engine),images sdks) ## lint and all tests; those with containers where there is an engine
	$(pytest)

bench-accuracy: images ## train and ask the images on the data sets in $(DATA)
	$(bin)/python bench/accuracy.py $(DATA)

bench-train: setup ## throughput and accuracy of training beside what users would write, on $(DATA)
	$(bin)/python bench/train.py $(DATA)

bench-serve: setup ## throughput, latency and memory of serving beside what users would run, on $(DATA)
	$(bin)/python -m bench.serve $(DATA)

bench-soak: setup ## an hour of mixed load: memory and answers of the server, on $(DATA)
	$(bin)/python -m bench.soak $(DATA)

bench-images: images ## size of the images and time to the first answer
	$(bin)/python bench/images.py

lock: setup ## pin the dependencies anew, in requirements.txt and docker/locks
	PATH="$(CURDIR)/$(bin):$$PATH" docker/lock --upgrade

clean: ## remove what was built here
	rm -rf .venv .venv-sdk2 .venv-sdk3 local_test/opt_ml docker/wheelhouse/*.whl
