# The commands of the project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REGISTRY ?= localhost

.DEFAULT_GOAL := help
.PHONY: help run test test-alerts test-faults test-operations rules metrics-doc check bench bench-compare bench-audit bench-model bench-privacy fuzz generate fmt lock stubs images deploy-test sbom audit clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.suite ## Set up, then run the whole suite here until Ctrl-C
	@exec $(BIN)/weaver up

test: $(VENV)/.dev ## Set up, then run every test
	@$(BIN)/python tools/test.py $(PYTEST_ARGS)

test-faults: $(VENV)/.dev ## Kill and fail the audit log at its system calls (strace; FAULTS=all)
	@command -v strace >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq strace; } >/dev/null; fi; \
		command -v strace >/dev/null || { echo "make test-faults needs strace: apt-get install strace" >&2; exit 3; }
	@$(BIN)/pytest tests/faults -q $(PYTEST_ARGS)

test-alerts: ## Try every alert with promtool (Debian's package prometheus)
	@command -v promtool >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null; fi; \
		command -v promtool >/dev/null || { echo "make test-alerts needs promtool: apt-get install prometheus" >&2; exit 3; }
	@promtool check config --syntax-only deploy/prometheus/prometheus.yaml
	@promtool check rules deploy/prometheus/*.rules.yaml
	@promtool test rules deploy/prometheus/tests/*.test.yaml

test-operations: $(VENV)/.dev ## Type what the runbooks say, go through operators' nights (root; minutes)
	@command -v prometheus >/dev/null && [ -e /usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 ] || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus faketime; } >/dev/null; fi
	@$(BIN)/pytest tests/operations -q $(PYTEST_ARGS)

check: $(VENV)/.dev ## Run every check that CI runs
	@$(BIN)/python tools/check.py

bench: $(VENV)/.dev ## Measure speed and print a table
	@$(BIN)/python -m bench

bench-compare: $(VENV)/.dev ## Measure beside LiteLLM and Portkey, which it installs
	@$(BIN)/python -m bench --compare --without && $(BIN)/python -m bench.report

bench-audit: $(VENV)/.dev ## Measure the audit log and print a table
	@$(BIN)/python -m bench.audit

bench-model: $(VENV)/.dev ## Measure the model service alone
	@$(BIN)/python -m bench.model

bench-privacy: $(VENV)/.dev ## Measure what detectors of personal data find, miss and cost
	@$(BIN)/python -m bench.personal_data

fuzz: $(VENV)/.dev ## Fuzz what reads clients' bytes, with atheris (SECONDS=60 each)
	@$(PIP) install -q atheris
	@for target in bodies redaction events urls; do $(BIN)/python tools/fuzz.py $$target $(or $(SECONDS),60) || exit 1; done

generate: $(VENV)/.dev ## Write gen/ and the generated documents anew
	@$(BIN)/python tools/generate.py && $(BIN)/python tools/settings_doc.py && $(BIN)/python tools/alerts_page.py

rules: $(VENV)/.dev ## Write the alert rules as a manifest for the Prometheus operator into dist/
	@mkdir -p dist && $(BIN)/python -m tools.prometheus_rules > dist/prometheus-rules.yaml

metrics-doc: $(VENV)/.dev ## Write the list of all metrics anew
	@$(BIN)/python tools/metrics_doc.py

fmt: $(VENV)/.dev ## Format code and contracts
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . ; $(BIN)/buf format -w protos

stubs: $(VENV)/.dev ## Build the typed client wheel and the descriptor set into dist/
	@$(BIN)/python tools/stubs.py

lock: $(VENV)/.dev ## Pin the newest versions that pyproject.toml allows, with hashes
	@UV_NO_CONFIG=1 $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes \
		--no-emit-index-url --no-header --python-version 3.11 \
		--extra suite --group dev pyproject.toml -o requirements/dev.txt
	@UV_NO_CONFIG=1 $(BIN)/uv pip compile -q --universal --generate-hashes \
		--no-emit-index-url --no-header --python-version 3.11 \
		--extra suite --constraint requirements/dev.txt pyproject.toml -o requirements/suite.txt
	@$(BIN)/python tools/image_locks.py

images: ## Build an image for each service with Docker (VERSION, REGISTRY, BUILD_ARGS)
	@for target in gateway ratelimit model audit cli suite; do docker build $(BUILD_ARGS) -f deploy/docker/Dockerfile --target $$target \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(git log -1 --format=%cI) \
		-t $(REGISTRY)/weaver-ai/$$target:$(VERSION) . || exit 1; done

deploy-test: $(VENV)/.dev ## Build the images, start them with Compose, try them through Envoy (root; Podman)
	@command -v podman >/dev/null && command -v buildah >/dev/null && command -v debootstrap >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		podman buildah debootstrap runc netavark aardvark-dns iptables ca-certificates; } >/dev/null; fi
	@$(BIN)/pytest tests/deploy -q $(PYTEST_ARGS)

sbom: $(VENV)/.dev ## Write a bill of materials (CycloneDX) for each image into dist/sbom/
	@$(BIN)/python tools/supply_chain.py sbom

audit: $(VENV)/.dev ## Look for known vulnerabilities in the packages of each image
	@$(BIN)/python tools/supply_chain.py audit

clean: ## Remove what was built and installed; .weaver/ (keys, audit log) stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Weaver needs Python 3.11 or newer: install it, or set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Weaver needs Python 3.11 or newer; $(PYTHON) is older. Set PYTHON=/path/to/python3.11." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is missing: on Debian and Ubuntu, apt-get install python3-venv." >&2; exit 1; }

$(VENV)/.suite: requirements/suite.txt pyproject.toml | $(BIN)/python
	@echo "Installing what the suite needs into $(VENV) (about half a minute) ..."
	@$(PIP) install -q --progress-bar on --require-hashes -r requirements/suite.txt
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing the suite and its development tools into $(VENV) (about a minute) ..."
	@$(PIP) install -q --progress-bar on --require-hashes -r requirements/dev.txt
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.suite
