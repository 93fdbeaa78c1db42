# Everything runs in .venv. `make demo` and `make up` install requirements-demo.txt there; the targets
# that test, check or measure add requirements.txt, which has the same versions.
PYTHON ?= python3
PIP_INSTALL = .venv/bin/pip install --quiet --disable-pip-version-check --no-deps

# Processes that the tests run in: each has servers of its own, and waits for them half of its time.
TEST_PROCESSES ?= 6
PYTEST = .venv/bin/pytest --numprocesses $(TEST_PROCESSES) --dist loadscope
# Without its cache, each of these processes would compile all tests anew.
export PYTHONDONTWRITEBYTECODE :=

# Oldest and newest that the manifests are for. CRDs have no schema there: tests/deploy looks at those.
MANIFESTS = $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/*/*.yaml))

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-all clients faults check docs bench bench-peers pins

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

install: .venv/.installed ## .venv, with all that the other targets need

demo: .venv/.demo ## see it work: a Redis, a local model, a worker, one prompt
	@.venv/bin/darkq demo

up: .venv/.demo ## run it on this machine, Redis included
	@.venv/bin/darkq up

test: .venv/.installed ## run the tests, without the slow ones
	$(PYTEST) -m 'not slow'

test-all: .venv/.installed ## run all tests
	$(PYTEST)

clients: .venv/.installed ## run OpenAI's SDKs and frameworks against the gateway; make test-all does too
	$(PYTEST) tests/integration/gateway/clients

faults: .venv/.installed ## break everything, hundreds of times; exit 1 if a promise is not kept
	@.venv/bin/python -m faults --stock

check: .venv/.installed ## lint, format, types, import arrows, what deploys it
	.venv/bin/ruff check && .venv/bin/ruff format --check
	.venv/bin/mypy && .venv/bin/basedpyright
	.venv/bin/lint-imports
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec \
		docker-compose.yml deploy/compose/*.yml
	.venv/bin/hadolint Dockerfile
	.venv/bin/kubernetes-validate --strict --quiet --no-warn -k 1.30 $(MANIFESTS)
	.venv/bin/kubernetes-validate --strict --quiet --no-warn -k 1.37 $(MANIFESTS)

docs: .venv/.installed ## write docs/reference anew, and the blocks of translated pages
	@.venv/bin/python -m support.reference

bench: .venv/.installed ## darkq beside its baselines: some minutes, two cores
	@.venv/bin/python -m benchmarks

bench-peers: .venv/.installed ## darkq beside SAQ, taskiq, streaQ and Celery, each in its own environment
	@.venv/bin/python -m benchmarks peers

pins: ## resolve pyproject.toml again into the requirements files
	@.ci/pins

.venv/.demo: requirements-demo.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
		|| { echo 'darkq needs Python 3.11 to 3.14; name one: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Installing into .venv: 350 MB on disk, less than a minute.'
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) -r requirements-demo.txt
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

.venv/.installed: .venv/.demo requirements.txt
	@echo 'Installing the tools of the tests into .venv: 1.4 GB in all, a minute or two.'
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@
