# make demo    see it work: a throw-away PostgreSQL, a small shop, its events as they commit
# make test    every test this machine can run
# make floor   the tests that need no server, in under a minute
# make lint    ruff, mypy --strict, import contracts
# make docs    the pages of docs/destinations, made of what the destinations say of themselves
# make bench   how fast it is, beside what the server itself can do
# make bench-writes    what tracking costs whoever writes to the database
# make bench-delivery  what each destination costs, and a dead one the others
# make oldest  the floor, with the oldest versions of everything setup.cfg admits
#
# Each makes the virtual environment and installs what it needs, once. Needed: Python 3.10 or newer with its venv module.
# PYTHON names the interpreter the environment is made from, ARGS is handed on: make test ARGS="-k rules", make demo ARGS="--seconds 30"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# A test starts the command hundreds of times: compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test floor lint docs bench bench-writes bench-delivery oldest clean

demo: $(VENV)/demo.installed
	@$(VENV)/bin/wal_tracker demo $(ARGS)

# Those that need no server keep a core busy each; the others, which kill servers and look at the clock, wait for much of
# their time, so three of them share two cores. With ARGS one of the two may have nothing to do (pytest's 5).
SERVERLESS = tests/conformance tests/property tests/typing tests/unit
SERVED = tests/docs tests/fault tests/integration tests/packaging
test: $(VENV)/test.installed
	@$(VENV)/bin/python -m pytest -n auto --dist worksteal $(SERVERLESS) $(ARGS) || [ "$$?$(if $(ARGS),,.)" = 5 ]
	@$(VENV)/bin/python -m pytest -n 3 --dist worksteal $(SERVED) $(ARGS) || [ "$$?$(if $(ARGS),,.)" = 5 ]

floor: $(VENV)/test.installed
	@$(VENV)/bin/python -m pytest -n auto --dist worksteal tests/unit tests/property -m "not slow" $(ARGS)

lint: $(VENV)/dev.installed
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

docs: $(VENV)/test.installed
	@$(VENV)/bin/python -m docs.generate

bench: $(VENV)/test.installed
	@$(VENV)/bin/python -m benchmarks $(ARGS)

bench-writes: $(VENV)/test.installed
	@$(VENV)/bin/python -m benchmarks.bench_writes $(ARGS)

bench-delivery: $(VENV)/test.installed
	@$(VENV)/bin/python -m benchmarks.bench_delivery $(ARGS)

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo "$(PYTHON) lacks its venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# One stamp an extra; a changed setup.cfg installs again.
$(VENV)/%.installed: setup.cfg pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "installing wal_tracker[$*] into $(VENV), once …" >&2
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

oldest:
	@$(PYTHON) -m venv --clear $(VENV)-oldest
	@sed -n '/^install_requires/,/^\[/s/^    \(.*\)>=\(.*\)$$/\1==\2/p' setup.cfg > $(VENV)-oldest/constraints.txt
	@$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(VENV)-oldest/constraints.txt --editable ".[test]"
	@$(VENV)-oldest/bin/python -m pytest tests/unit tests/property tests/conformance -m "not slow" $(ARGS)

clean:
	@rm -rf $(VENV) $(VENV)-oldest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
