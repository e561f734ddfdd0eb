# What people and CI run. `make` alone lists the targets; `make test` is the whole proof, needs nothing but Rust, and says what else it could not have.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Test tools that the set-up installs for this checkout alone.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help run setup examples test test-unit test-integration emulators-up emulators-down fmt fmt-check lint lint-core lint-deploy lint-proto build-times it crash chaos power fuzz grpcurl openapi deny clean-data

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## build and start everything embedded: log, queue, Parquet store, SQLite warehouse
	cargo run --locked --release -- dev

setup: ## install the test tools that are missing (grpcurl, sqlite3, strace, SDKs, what the examples need, schemathesis, buf)
	@scripts/setup

test: ## everything: format, lints, contracts, unit, conformance, model, end to end, emulators, grpcurl, chaos and power cuts in their short forms
	@scripts/test

test-unit: ## the quick loop: unit tests alone
	cargo test --locked --lib

# The tests run these, and cargo does not build them for one test target alone.
examples:
	cargo build --locked --examples

test-integration: setup examples ## conformance, doors and end to end, against the emulators that this machine can have
	@scripts/with-emulators cargo test --locked --test it

emulators-up: ## start the emulators of Google Cloud's services (scripts/emulators env prints where they are)
	@scripts/emulators up

emulators-down: ## stop the emulators that were started so
	@scripts/emulators down

fmt: ## format the code
	cargo fmt

fmt-check: ## fail when something is not formatted
	cargo fmt --check

lint: ## clippy on every target, warnings denied
	cargo clippy --locked --all-targets -- -D warnings

lint-core: ## clippy on the program without the cloud features
	cargo clippy --locked --no-default-features -- -D warnings

lint-deploy: ## shell scripts, Dockerfiles, docker-compose.yml and deploy/, by linters and schemas
	@scripts/check-deploy

it: examples ## what runs against real sockets, stores and the real binary, without kills; cloud services only where a variable names their emulator
	cargo test --locked --test it

crash: ## kill -9 in a loop; EVENTKIT_CHAOS_KILLS=100 (per log engine) EVENTKIT_CHAOS_SEED=7 make crash
	cargo test --locked --test chaos kills::

chaos: ## every fault in its long form against the release binary; figures in target/chaos-figures.txt
	@EMULATOR_PUBSUB_HEAP=$${EMULATOR_PUBSUB_HEAP:-2g} scripts/with-emulators scripts/chaos

power: ## power cuts, rebuilt from a journal; EVENTKIT_CHAOS=long EVENTKIT_POWER_SEED=7 make power
	cargo test --locked --test power

fuzz: ## fuzz what reads bytes from outside, 60 s for each target; scripts/fuzz says how to do it for longer
	@scripts/fuzz

grpcurl: setup ## the scripts of grpcurl-examples/ against a live server
	cargo test --locked --test it grpcurl::

lint-proto: ## proto/ by buf's rules, and against the state that was last reviewed (proto/reviewed.txtpb)
	@scripts/check-proto

openapi: setup ## the document at /openapi.json, and the real binary held to it by schemathesis
	cargo test --locked --test it openapi::

build-times: ## how long a release build takes from nothing, with and without the cloud features; about 10 minutes
	@scripts/build-times

deny: ## licences and advisories of the dependencies (needs cargo-deny)
	cargo deny check

clean-data: ## forget what `make run` stored
	rm -rf eventkit-data
