# Each target installs what it needs into the checkout (.venv, target); nothing is installed elsewhere.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv/bin
INSTALL := infra/local/install.sh
# One build serves demo and tests: all targets, so that both take the SDK with the same features and it compiles once.
CARGO_BUILD := infra/local/heartbeat.sh cargo build --locked --workspace --all-targets
# Of no use here, and slow where there is no way out.
export SAM_CLI_TELEMETRY := 0

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: demo
demo: python binaries ## The main job, end to end, on this machine, without an AWS account
	@$(VENV)/python infra/local/demo.py

.PHONY: test
test: python ## Every test: format, lints, units, both binaries against a local stand-in for AWS, the template
	cargo fmt --all --check
	infra/local/heartbeat.sh cargo clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO_BUILD)
	cargo test --locked --workspace
	RUSTDOCFLAGS='-D warnings' infra/local/heartbeat.sh cargo doc --locked --workspace --no-deps
	$(VENV)/ruff check infra
	$(VENV)/ruff format --check infra
	AWS_DEFAULT_REGION=us-east-1 $(VENV)/sam validate --lint --template template.yaml
	$(VENV)/python -m pytest -c infra/local/pytest.ini --numprocesses 2 infra/local/tests

.PHONY: build
build: python ## Release artifacts for Lambda (sam build with cargo-lambda)
	@$(INSTALL) infra/local/requirements-build.txt
	PATH="$(CURDIR)/$(VENV):$$PATH" infra/local/heartbeat.sh $(VENV)/sam build

.PHONY: bench
bench: python ## The benchmarks, side by side (BENCH=quick: 3 minutes in place of 10)
	@$(INSTALL) infra/local/requirements-build.txt
	PATH="$(CURDIR)/$(VENV):$$PATH" infra/local/heartbeat.sh cargo lambda build --locked --release --bin poller \
		--bin containment --bin bench-harness --bin bench-floor --bin bench-empty
	$(VENV)/python infra/bench/bench.py $(BENCH)

.PHONY: deploy
deploy: build ## Deploy to your AWS account: guided the first time, from samconfig.toml then
	if [ -f .local/deployed ]; then $(VENV)/sam deploy; else $(VENV)/sam deploy --guided; fi
	mkdir -p .local && touch .local/deployed

.PHONY: python
python:
	@$(INSTALL) infra/local/requirements.txt

.PHONY: binaries
binaries:
	@echo "building the functions (the first time: 5 to 8 minutes on 2 cores, most of it the EC2 SDK)"
	@$(CARGO_BUILD)
