# make reproduce   every figure and table, into figures/<run>/; RUN picks config/<run>.yaml, DATA the data root
# make test        every test, the notebooks' outputs among them
# make check       style, types, import direction, and the tests of what changed, in a minute
# make lab         the notebooks in JupyterLab          make explore   notebook 09 as a page without code
# make bench       what is fast and how fast            make clean     forget the environment and all runs

RUN ?= embedded
BIN := .venv/bin
NBVAL := --nbval-lax --nbval-current-env
ALONE := notebooks/00_start_here.ipynb notebooks/03_first_transfer.ipynb notebooks/05_second_transfer.ipynb
BROWSER := tests/test_explorer_browser.py
TABLES := tests/test_committed_tables.py
LONGEST := tests/test_own_faces.py tests/test_faults.py \
	notebooks/08_occlusion.ipynb notebooks/02_bvlc_features.ipynb
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONHASHSEED = 0
ifdef DATA
export DUALTL_DATA := $(DATA)
endif

# nbval reads a cell's messages only when the cell is done. Bars that report ten times a second sent thousands in that
# time, the queue ran over, and the message that says "done" was lost.
reproduce: export TQDM_MININTERVAL = 5
test: export TQDM_MININTERVAL = 60

.PHONY: reproduce test style check browser lab explore bench clean

reproduce: .venv/installed
	snakemake --cores all --config run='$(RUN)' --rerun-incomplete
	python -m dualtl_lib summary '$(RUN)'

style: .venv/installed
	ruff check
	ruff format --check
	lint-imports
	basedpyright --level error

# Notebooks are checked on faces and models of their own, made anew, so that no earlier run is believed: first those
# that the others need, which use every core, then the others two at a time, the longest first. Then their tables are
# compared with the committed ones.
test: export DUALTL_OUTPUT := $(CURDIR)/runs/test
test: style
	rm -rf runs/test
	OMP_NUM_THREADS=1 pytest -n 2 -rs $(addprefix --ignore ,$(filter tests/%,$(LONGEST)) $(TABLES)) \
		$(addprefix --deselect $(BROWSER)::,test_in_jupyterlab test_under_voila) tests
	pytest -v $(NBVAL) $(ALONE)
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder $(NBVAL) $(LONGEST) \
		$(filter-out $(ALONE) $(LONGEST),$(wildcard notebooks/*.ipynb))
	pytest -v $(TABLES)

# The tests of the modules that differ from the last commit, found by their names: tests/test_<name>*.py for
# dualtl_lib/…/<name>.py and for each test that changed.
check: style
	OMP_NUM_THREADS=1 pytest -n 2 tests/test_architecture.py $(shell git diff --name-only HEAD -- dualtl_lib tests | \
		sed -n 's|.*/\(test_\)\{0,1\}\([a-z_0-9]*\)\.py$$|\2|p' | sort -u | \
		while read name; do ls tests/test_$$name*.py 2>/dev/null; done | sort -u | grep -v '_browser\|$(TABLES)')

# The explorer in a real browser, which needs Debian's chromium, and how long a slider's move takes. The shortest of
# these tests is one of `make test`.
browser: .venv/installed
	pytest -s $(BROWSER)

# What a person uploads to the explorer may have 100 MB, not 10.
lab explore: export JUPYTER_CONFIG_PATH = $(CURDIR)/config

lab: .venv/installed
	jupyter lab notebooks

explore: .venv/installed
	voila notebooks/09_explorer.ipynb

bench: .venv/installed
	python benchmarks/faces.py
	python benchmarks/deconvnet.py
	python benchmarks/training.py
	python benchmarks/training.py --order norm-pool
	python benchmarks/precision.py

.venv/installed: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs .snakemake
