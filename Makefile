# The README's commands and the developer's. Everything works from a fresh clone with Python 3.11 or later and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup compiled cluster test test-compiled check format generate sim sim-long mutants chaos soak fuzz bench bench-full conformance conformance-java

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The hot modules are compiled where there is a C compiler; everything runs without, too (docs/adr/0040).
setup: $(STAMP)
	$(BIN)/python -m cli.compiled.build --if-possible

compiled: $(STAMP)
	$(BIN)/python -m cli.compiled.build

cluster: $(STAMP)
	$(BIN)/chronik-server dev --nodes 3

test: $(STAMP)
	$(BIN)/python -m pytest

# The same tests on the compiled modules, nodes of the integration tests included. TESTS='tests/unit tests/property'
test-compiled: compiled
	CHRONIK_COMPILED=1 $(BIN)/python -m pytest $(TESTS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m broker.protocol.generator --check
	$(BIN)/python -m broker.handlers.table --check
	$(BIN)/python -m raft.transport.generate --check

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Suites that others wrote, fetched from the package registries when they are run.
conformance: $(STAMP)
	$(BIN)/python -m tests.conformance.kafka_python

conformance-java: $(STAMP)
	$(BIN)/python -m tests.conformance.java

generate: $(STAMP)
	$(BIN)/python -m broker.protocol.generator
	$(BIN)/python -m broker.handlers.table
	$(BIN)/python -m raft.transport.generate

# kill -9 and SIGSTOP on real nodes under load; prints anomalies and failover times. CYCLES=100
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos.run --cycles $(or $(CYCLES),100)

# Programs with three client libraries in groups and transactions, a kill -9 of the coordinator in each, again and again. ROUNDS=10
soak: $(STAMP)
	$(BIN)/python -m tests.integration.programs.run --rounds $(or $(ROUNDS),10)

# Malformed frames to a live node. FRAMES=100000
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run --frames $(or $(FRAMES),100000)

# The deterministic simulator: one seed (SEED=17, twice the same), or many (SEEDS=200) of each workload (WORKLOAD=replication or coordinators).
SIM = $(BIN)/python -m tests.simulation.run $(if $(WORKLOAD),--workload $(WORKLOAD))

sim: $(STAMP)
	$(SIM) $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200))

sim-long: $(STAMP)
	$(SIM) --seeds $(or $(SEEDS),1000)

# Break one rule at a time: each must be noticed by the simulator. Prints the table of docs/simulation.md.
mutants: $(STAMP)
	$(BIN)/python -m tests.simulation.mutants

# The goals of docs/performance.md, ours beside Apache Kafka (where a JVM and Maven are), in ten minutes; everything, in hours.
# BENCH='--yardstick PROGRAM', '--bootstrap HOST:PORT --pids 1,2,3' for a further system, '--resume FILE', … (python -m benchmarks --help)
bench: $(STAMP)
	$(BIN)/python -m benchmarks --part quick --minutes 10 $(BENCH)

bench-full: $(STAMP)
	$(BIN)/python -m benchmarks --part full --systems chronik,kafka,kafka-flush $(BENCH)
