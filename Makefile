# make reproduce   every figure and table, into figures/<run>/; RUN picks config/<run>.yaml, DATA the data root
# make test        every test, the notebooks' outputs among them
# make lab         the notebooks in JupyterLab          make explore   notebook 09 as a page without code
# make bench       what is fast and how fast            make clean     forget the environment and all runs

RUN ?= embedded
BIN := .venv/bin
NBVAL := --nbval-lax --nbval-current-env
ALONE := notebooks/00_start_here.ipynb notebooks/03_first_transfer.ipynb notebooks/05_second_transfer.ipynb
BROWSER := tests/test_explorer_browser.py
LONGEST := tests/test_faults.py tests/test_own_faces.py notebooks/08_occlusion.ipynb notebooks/02_bvlc_features.ipynb
export DUALTL_DATA ?= $(abspath $(patsubst ~/%,$(HOME)/%,$(or $(DATA),../shared/data)))
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONHASHSEED = 0

# nbval reads a cell's messages only when the cell is done. Bars that report ten times a second sent thousands in that
# time, the queue ran over, and the message that says "done" was lost.
reproduce test: export TQDM_MININTERVAL = 5

.PHONY: reproduce test browser lab explore bench clean

reproduce: .venv/installed
	snakemake --cores all --config run=$(RUN) --rerun-incomplete
	python -m dualtl_lib summary $(RUN)

# Notebooks are checked on faces and models of their own, made anew, so that no earlier run is believed: first those
# that the others need, which use every core, then the others two at a time, the longest first.
test: export DUALTL_OUTPUT := $(CURDIR)/runs/test
test: .venv/installed
	rm -rf runs/test
	ruff check
	ruff format --check
	OMP_NUM_THREADS=1 pytest -n 2 -rs $(addprefix --ignore ,$(filter tests/%,$(LONGEST))) \
		$(addprefix --deselect $(BROWSER)::,test_in_jupyterlab test_under_voila) tests
	pytest -v $(NBVAL) $(ALONE)
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder $(NBVAL) $(LONGEST) \
		$(filter-out $(ALONE) $(LONGEST),$(wildcard notebooks/*.ipynb))

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
