# Two commands do everything, set-up included: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test check types clean

demo: $(INSTALLED) ## compile, verify and train a language model with DualPipe on 4 local processes
	$(BIN)/pipec run dualpipe P=4 M=8

test: $(INSTALLED) ## the whole suite, on two cores
	$(BIN)/pytest -n 2 --dist loadfile

check: $(INSTALLED) types ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Type checkers do not follow the names under which `runtime/` and its neighbours are installed.
types: $(INSTALLED)
	rm -rf build/types && mkdir -p build/types/pipec
	ln -s $(CURDIR)/pipec/* $(CURDIR)/runtime $(CURDIR)/schedules $(CURDIR)/examples $(CURDIR)/docs build/types/pipec/
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p pipec

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pipec needs Python 3.11 or later; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[runtime,test]'
	touch $@

clean: ## everything that these commands made
	rm -rf .venv build out *.egg-info
