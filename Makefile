# Every target sets up what it needs in .venv; nothing else has to be installed by hand.
export PYTHONSAFEPATH = 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard proto/treeserve/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help install sandbox prometheus screens demo serve test ray check lint format proto bench gpu aot train clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

install: $(STAMP) ## the virtual environment, with everything that is pinned in constraints.txt

# torch goes first and by its exact version: elsewhere it pulls in several GB.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Judging needs it; everything else goes on without.
sandbox: ## bubblewrap, where it may be installed; says what to do where it may not
	@command -v bwrap >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& { apt-get install -y --no-install-recommends bubblewrap \
			|| { apt-get update && apt-get install -y --no-install-recommends bubblewrap; }; } \
		>/dev/null 2>&1; } || \
		echo "bubblewrap is not installed, and programs are judged in it: as root, apt-get install -y bubblewrap"

# Its rules and dashboards are tested by a real one; without it those tests are skipped.
prometheus: ## Prometheus, where it may be installed; says what to do where it may not
	@command -v prometheus >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& { apt-get install -y --no-install-recommends prometheus \
			|| { apt-get update && apt-get install -y --no-install-recommends prometheus; }; } \
		>/dev/null 2>&1; } || \
		echo "Prometheus is not installed, and some tests are skipped: as root, apt-get install -y prometheus"

# Tests of the page and of `treeserve top` need them, and are skipped without.
screens: ## chromium and tmux, where they may be installed
	@command -v chromium >/dev/null && command -v tmux >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& { apt-get install -y --no-install-recommends chromium tmux \
			|| { apt-get update && apt-get install -y --no-install-recommends chromium tmux; }; } \
		>/dev/null 2>&1; } || \
		echo "chromium or tmux is missing, and tests of the screens are skipped: apt-get install -y chromium tmux"

demo: $(STAMP) sandbox ## a real model solves little contest problems over gRPC, sharing what they share
	$(BIN)/treeserve demo

serve: $(STAMP) ## the server, with the embedded model, on 127.0.0.1
	$(BIN)/treeserve serve

test: $(STAMP) sandbox prometheus screens ## all tests; screenshots are kept in build/screenshots
	$(BIN)/python -m pytest -n 2 --dist worksteal

ray: $(STAMP) ## installs Ray beside the rest (about 200 MB) and runs the tests that need it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	$(BIN)/python -m pytest tests/ray_serve

check: $(STAMP) ## lint, format, types, import contracts, generated code, metrics page, dashboards, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_layout.py tests/proto \
		tests/metrics/test_declarations.py tests/deploy/test_dashboards.py

format: $(STAMP) ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP) ## generate treeserve/pb from proto/
	$(BIN)/python -m grpc_tools.protoc -Itreeserve/pb=proto/treeserve/v1 \
		--python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

bench: $(STAMP) ## sharing on against off, interleaved, on this machine
	$(BIN)/treeserve bench sharing

aot: $(STAMP) ## compile every kernel for sm_80 and sm_90 (needs no GPU); registers, shared memory, spills
	$(BIN)/python -m treeserve.kernels.aot

# A CUDA machine's own Python has the torch that fits it, so this makes no virtual environment:
# `make gpu PYTHON=/path/to/python3` where it is not python3. A wrong value (status 1) does not keep
# the second benchmark from running; a machine without CUDA does.
GPU_ATTENTION_SECONDS ?= 270
GPU_DECODE_SECONDS ?= 165
gpu: ## values and speed on a CUDA machine in under 8 minutes, with PYTHON as it is, no .venv
	@$(PYTHON) -c 'import treeserve.commands.main' || { echo "first: $(PYTHON) -m pip install \
		--no-deps --no-build-isolation -e . (beside torch, triton, transformers)"; exit 2; }
	$(PYTHON) -m treeserve bench attention --time-limit $(GPU_ATTENTION_SECONDS) \
		--output gpu-attention.json; first=$$?; test $$first -le 1 || exit $$first; \
	$(PYTHON) -m treeserve bench decode --device cuda --time-limit $(GPU_DECODE_SECONDS) \
		--output gpu-decode.json && exit $$first

train: $(STAMP) ## train the embedded model again (about a quarter of an hour on two cores)
	$(BIN)/python -m treeserve.contest.train --output treeserve/embedded/checkpoint

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
