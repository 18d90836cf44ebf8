# `make test` and `make run` make what they need by themselves, in a fresh clone as well.
#
# PYTHON  the Python that the environment is made with: make test PYTHON=python3.12
# VENV    where the environment is, or an existing one to use: make test VENV=~/envs/retina
# NOTEBOOKS  which outputs `make outputs` writes anew (default: all but the runs): make outputs NOTEBOOKS="tutorials 21_metrics"
# CASES, SEED  how many files `make fuzz` damages, and by which chance: make fuzz CASES=500 SEED=1
# LESION  what `make run` outlines: make run LESION=hemorrhages
PYTHON ?= python3
VENV ?= .venv
LESION ?= exudates
NOTEBOOKS ?=
CASES ?= 10000
SEED ?= 0
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.retinal_tl-installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
export TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_ENABLE_ONEDNN_OPTS ?= 1

.PHONY: help install check test fuzz soak run bench export readme docs outputs upgrade clean

help:
	@echo "make install   make the environment in $(VENV), with all that building needs"
	@echo "make check     what to run before every commit: style, types, library equals notebooks, the fast tests (two minutes)"
	@echo "make test      run every test: notebooks, tests/, both Keras backends (twenty-five minutes)"
	@echo "make fuzz      ten thousand damaged files through every door; CASES=..., SEED=... for other ones"
	@echo "make soak      kill every kind of batch fifty times and more, and compare what is left with an unbroken one (an hour)"
	@echo "make run       both stages on synthetic eyes, into runs/"
	@echo "make bench     speed beside other libraries, into results/bench-<machine>.json (twenty minutes; installs the extra bench)"
	@echo "make export    write the library from the notebooks and clean the notebooks"
	@echo "make readme    write README.md from nbs/index.ipynb"
	@echo "make docs      build the site into _docs"
	@echo "make outputs   run the notebooks and save what they show; NOTEBOOKS=... for some (the runs only if named: run_stage1)"
	@echo "make upgrade   take the newest versions that settings.ini allows, and note them in constraints.txt"
	@echo "make clean     remove what builds leave; runs/, data/ and $(VENV) stay"

$(INSTALLED): settings.ini setup.py constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "retinal_tl needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Making the environment in $(VENV); this takes some minutes once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED)

check: $(INSTALLED)
	@$(BIN)/ruff check --output-format concise .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test: $(INSTALLED)
	@$(BIN)/python tools/build/test.py

fuzz: $(INSTALLED)
	@$(BIN)/python tools/build/fuzz.py --cases $(CASES) --seed $(SEED)

soak: $(INSTALLED)
	@$(BIN)/python tools/build/soak.py

run: $(INSTALLED)
	@mkdir -p runs
	$(BIN)/papermill nbs/run_stage2.ipynb runs/stage2.ipynb -p lesion $(LESION)

bench: $(INSTALLED)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[bench]'
	@$(BIN)/python benchmarks/bench.py

export: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" nbdev_export
	@PATH="$(abspath $(BIN)):$$PATH" nbdev_clean

readme: $(INSTALLED)
	@$(BIN)/python tools/build/readme.py

docs: $(INSTALLED)
	@$(BIN)/python tools/build/docs.py

outputs: $(INSTALLED)
	@$(BIN)/python tools/build/outputs.py $(NOTEBOOKS)

upgrade: $(INSTALLED)
	@$(BIN)/python -m pip install -qq --upgrade --upgrade-strategy eager -e '.[dev]'
	@{ grep '^#' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt
	@touch $(INSTALLED)

clean:
	rm -rf build dist _docs _proc *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache nbs/nbdev.yml
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './.venv/*' -prune -exec rm -rf {} +
