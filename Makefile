# The project's commands, each a line or two over cargo and scripts/; `make` lists them. There is no build logic here: cargo
# knows what to build, scripts/setup what to install.

# The Kafka versions that the tests start.
KAFKA_VERSIONS := 3.9.1 4.4.0 3.4.1

.PHONY: help build demo test faults soak fuzz axe lint simulate mutants bench bench-quick bench-all start_kafka stop_kafka start_producer check_lag clean

help: ## list these commands
	@sed -n 's/^\([a-z_-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

build: ## build ./target/release/mb
	cargo build --release --locked

demo: ## set up, build, and run the main job (more flags in DEMO_ARGS='…')
	scripts/setup demo
	cargo build --release --locked
	./target/release/mb --rate 1000 --max-batch 100 $(DEMO_ARGS)

test: ## set up, check, and run every test, those against real Kafka too
	scripts/setup test
	@# The brokers are downloaded while the compiler works.
	@for version in $(KAFKA_VERSIONS); do KAFKA_VERSION=$$version scripts/kafka fetch || exit 1; done & fetching=$$!; \
	$(MAKE) --no-print-directory lint && wait $$fetching
	scripts/test

# To repeat one: MB_FAULT_SEED=… MB_FAULT_LONG=1 cargo test --profile ci --test brokers ROW
# With batches as large as the bench's: MB_FAULT_BATCH=500 make faults
faults: ## test every kind of fault with 3 seeds each, and with long outages (make test has a short form)
	scripts/setup test
	MB_FAULT_SEEDS=3 MB_FAULT_LONG=1 cargo test --profile ci --locked --test brokers row_ -- --nocapture

# To repeat one with the same order of faults: MB_SOAK_SEED=… make soak
soak: ## run on real brokers for MB_SOAK_MINUTES (30) under every kind of fault (make test does so for a short time)
	scripts/setup test
	MB_SOAK_MINUTES=$(or $(MB_SOAK_MINUTES),30) cargo test --profile ci --locked --test brokers soak:: -- --nocapture

# Each input that is found is kept: copy it from target/fuzz-TARGET into tests/corpus/TARGET.
fuzz: ## give random input to each parser of what others send, MB_FUZZ_SECONDS (60) each
	MB_FUZZ_SECONDS=$(or $(MB_FUZZ_SECONDS),60) cargo test --profile ci --locked --test embedded fuzz:: -- --nocapture

axe: ## check every view of the page with axe, for keyboards and screen readers
	scripts/setup test
	MB_TEST_AXE=1 cargo test --profile ci --locked --test page every_view -- --nocapture

lint: ## check format, code, docs, scripts and the systemd units
	cargo fmt --all --check
	cargo clippy --profile ci --workspace --all-targets --locked -- -D warnings
	cargo clippy --profile ci --lib --bins --locked -- -D warnings -D clippy::too_many_lines -D clippy::too_many_arguments
	cargo clippy --profile ci --lib --bins --tests --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --profile ci --no-deps --locked
	@if command -v shellcheck >/dev/null; then set -x; shellcheck $$(grep -l '^#!.*bash' scripts/* bench/setup .ci/*); \
	else echo 'lint: shellcheck not found, scripts not checked: run scripts/setup test' >&2; test -z "$$CI"; fi
	scripts/check-unit

simulate: ## run the deterministic simulation over SEEDS (from..to)
	MB_SIM_SEEDS=$(or $(SEEDS),0..100000) cargo test --release --locked --test simulation -- --nocapture

mutants: ## introduce known bugs, and show which seed of the simulation, or which model, catches each
	scripts/mutants
	scripts/mutants --models

# More arguments: make bench BENCH_ARGS='--only W1,W4 --rounds 5' (see target/release/mb-bench --help)
bench: ## measure mb against bare clients and other tools, in 15 minutes (see bench/README.md)
	@bench/setup $(BENCH_SETUP) || echo 'bench: continuing without the contenders that bench/setup could not build' >&2
	cargo build --release --locked
	cargo build --release --locked -p mb-bench
	target/release/mb-bench $(BENCH_MODE) $(BENCH_ARGS)

bench-quick: BENCH_MODE := --quick
bench-quick: bench ## the same with less of everything, in 3 minutes

bench-all: BENCH_MODE := --all
bench-all: BENCH_SETUP := all
bench-all: bench ## the same with Spark too

start_kafka: ## start a Kafka broker on localhost:9092; needs Java 17 and Maven (see scripts/kafka help)
	scripts/kafka start

stop_kafka: ## stop that broker
	scripts/kafka stop

start_producer: build ## post 1000 messages a second to the topic
	./target/release/mb produce --rate 1000

check_lag: build ## show the group's lag, in the format of Kafka's own tool
	scripts/lag.sh

clean: ## stop the brokers and remove everything that was built
	scripts/kafka stop --all
	cargo clean
