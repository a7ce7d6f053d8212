# The only commands anyone must know. They need Python 3.11 or newer; everything else they install into .venv.
#   make demo        one picture through the whole service      DEMO_ARGS="--image cat.jpg --num-outputs 2"
#   make test        all tests but the slow ones                TEST_ARGS="-k worker"
#   make test-slow   the slow ones
#   make check       lint, format, types, imports
#   make chaos       100,000 simulated runs, then 10,000 real jobs under attack: two hours     CHAOS_ARGS="--seed 7"
#   make bench       how fast a job is accepted, how well 1,000 callers wait, how busy the model is kept, what it saves
#   make .env        the secrets and choices that docker-compose.yml needs, drawn once
#   make locks       what the images install, locked with hashes, after a change of dependencies
#   make images-test both images built and run with podman; needs root and Debian's packages, which it names
# Linux without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu spares gigabytes of CUDA.

PYTHON ?= python3
TORCH_INDEX ?=
DEMO_ARGS ?=
TEST_ARGS ?=
CHAOS_ARGS ?=

# Torch's threads wait without spinning: beside another busy process that is five times as fast.
export OMP_WAIT_POLICY ?= passive

BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo test test-slow check chaos bench locks images-test

help:
	@sed -n 's/^#   *//p' Makefile

demo: $(STAMP)
	@$(BIN)/reduxq demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(TEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(STAMP)
	$(BIN)/python -m tests.sim --seeds 100000
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.bench.accept
	$(BIN)/python -m tests.bench.polls
	$(BIN)/python -m tests.bench.blocked
	$(BIN)/python -m tests.bench.recover
	$(BIN)/python -m tests.bench.previews
	$(BIN)/python -m tests.bench.batches
	$(BIN)/python -m tests.bench.busy
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.cancel
	$(BIN)/python -m tests.bench.deadlines
	$(BIN)/python -m tests.bench.loops

# Made only when there is none: these secrets open what the volumes hold.
.env:
	@umask 077 && $(PYTHON) -c 'import re, secrets; print(re.sub("<random>", lambda _: secrets.token_hex(24), open(".env.example").read()), end="")' > $@.new && mv $@.new $@
	@echo "Drew .env; read it, then: docker compose up"

LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --constraint constraints.txt --custom-compile-command 'make locks'

# torch stands in no lock: each image takes its own build from an index.
locks: $(STAMP)
	sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | $(LOCK) --output-file locks/build.txt -
	echo torch | $(LOCK) --excludes /dev/stdin --extra api --extra monitor --output-file locks/api.txt pyproject.toml
	echo torch | $(LOCK) --excludes /dev/stdin --extra worker --output-file locks/worker.txt pyproject.toml

images-test: $(STAMP)
	$(BIN)/python -m tests.images

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reduxq needs Python 3.11 or newer and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv; the first time takes some minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	@touch $@
