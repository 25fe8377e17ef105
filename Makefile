# What people do with a checkout; `make` alone lists it. test, compare and bench need nothing but
# Debian or Ubuntu: vagrant/provision.sh brings the rest.

SHELL := /bin/bash
# Where rustup puts cargo, and where Debian keeps mkfs for those who are not root.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/sbin:/sbin
SCRIPTS := .ci/run $(wildcard findings/*.sh findings/*.bash vagrant/*.sh vagrant/*/*.sh tests/support/*.sh benches/*.sh benches/*/*.sh)

.DEFAULT_GOAL := help
.PHONY: help test test-long vm compare bench bench-import bench-containerd bench-build fuzz proto lint deny man ci provision

# Seconds for each fuzz target.
FUZZ_S ?= 1800
# What `make test-long` counts, with the least number of things to try in each section.
TALLY := containers=100 full-disk=200 failed-syncs=4000 writing=50 bounds=10 small=30 power-cuts=10000 \
  power-cuts-failing-flush=2000 escapes=500
# Each is checked without the others.
FEATURES := build lab registry cli containerd
# Crates of the features, which the core does without.
NOT_IN_CORE := clap|indicatif|comfy-table|quick-xml|tokio|tonic|ureq
FUZZERS := decode round_trip differential apply

help: ## list these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

test: provision ## run every test that this machine can run (as root: all of them)
	@mkdir -p target && set -o pipefail && cargo test --locked --no-fail-fast 2>&1 | tee target/test.log
	@awk '/^test result:/ { passed += $$4 } /skipped: / { skips++ } \
	  END { printf "%d tests passed; %d times something was skipped\n", passed, skips }' target/test.log

test-long: provision ## the same, with 100,000 random trees and layers, 20,000 scripts, 2,000 Dockerfiles, 10,500 power cuts, each case of a full disk and of a failed sync (hours)
	@mkdir -p target; set -o pipefail; seed=$${STRATA_SEED:-$$RANDOM}; echo "STRATA_SEED=$$seed"; \
	  unset STRATA_BUDGET_S STRATA_FULL; export STRATA_SEED=$$seed; \
	  { STRATA_SCRIPTS=100000 cargo test --locked --release --lib && \
	    STRATA_SCRIPTS=20000 STRATA_POWER_POINTS=1200 STRATA_FAILING_POINTS=300 cargo test --locked --no-fail-fast --release --bins --test '*'; } 2>&1 | \
	  tee target/test-long.log; passed=$$?; \
	  awk -v sections='$(TALLY)' -f tests/support/tally.awk target/test-long.log || passed=1; exit $$passed

vm: ## try kernels of Debian's in an emulator: 6.1 and 6.12, each case once, or ARGS="--all 6.18 7.3"
	vagrant/quick.sh $(ARGS)

compare: ## compare the strategies on this machine, in short (three minutes on a new one); ARGS="..." go to `strata compare` instead
	@# The crates come while packages are installed.
	@cargo fetch --locked --quiet 2> /dev/null & vagrant/provision.sh --compare && wait
	cargo run --locked --profile compare --no-default-features -- compare $(or $(ARGS),--quick --html target/compare.html)

bench: provision ## measure against the raw system calls
	cargo bench --locked --bench lifecycle
	cargo bench --locked --bench changeset
	cargo bench --locked --bench mount
	cargo bench --locked --bench metadata

bench-containerd: provision ## measure behind containerd, against its own snapshotters
	cargo bench --locked --bench containerd

bench-import: provision ## measure imports against tar, umoci, podman and containerd (as root; ROUNDS=5)
	cargo build --locked --release
	benches/import/run.sh "$(CURDIR)/target/release/strata" $(or $(ROUNDS),5)

fuzz: ## run each fuzz target of tests/fuzz for FUZZ_S seconds (half an hour)
	@cargo fuzz --version > /dev/null 2>&1 || { echo 'make fuzz: cargo-fuzz is missing: cargo install cargo-fuzz' >&2; exit 1; }
	@for target in $(FUZZERS); do \
	  mkdir -p target/fuzz/corpus/$$target && \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir $(CURDIR)/target/fuzz -s none $$target \
	    $(CURDIR)/target/fuzz/corpus/$$target $(CURDIR)/tests/fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_S) -max_len=16384 || exit 1; \
	done

proto: ## write the Rust of containerd's protocols anew, from src/containerd/proto/*.proto
	cargo run --quiet --locked --target-dir target/protobuf --manifest-path tests/protobuf/Cargo.toml -- src/containerd/proto/generated

bench-build: provision ## measure building and running against buildah and podman
	cargo build --locked --release
	benches/build.sh $(ROUNDS)

lint: ## check formatting, clippy with each feature, the documentation and the shell scripts
	cargo fmt --check
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	for features in '' $(FEATURES); do \
	  cargo clippy --locked --lib --no-default-features --features "$$features" -- -D warnings || exit 1; done
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
	@# A program that uses the core compiles none of these.
	tree=$$(cargo tree --locked --no-default-features --edges normal --prefix none) && \
	  ! grep -E '^($(NOT_IN_CORE)) ' <<< "$$tree"
	@# The inputs of the fuzz targets are no part of the package.
	files=$$(cargo package --locked --list --allow-dirty) && ! grep -E '^tests/fuzz/' <<< "$$files"
	shellcheck --external-sources $(SCRIPTS)

deny: ## check licenses, sources and versions of the dependencies by deny.toml
	@cargo deny --version > /dev/null 2>&1 || { echo 'make deny: cargo-deny is missing: cargo install cargo-deny' >&2; exit 1; }
	cargo deny --locked check bans licenses sources

man: ## write the manual pages to target/man
	@mkdir -p target/man
	cargo run --quiet --locked --release -- man target/man

ci: ## what CI runs
	.ci/run

provision: ## install what is missing
	@vagrant/provision.sh
