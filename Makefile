# make reproduce   every figure and table, into figures/<run>/; RUN picks config/<run>.yaml, DATA the data root
# make test        every test, the notebooks' outputs among them
# make lab         the notebooks in JupyterLab          make explore   notebook 09 as a page without code
# make bench       what is fast and how fast            make clean     forget the environment and all runs

RUN ?= embedded
BIN := .venv/bin
export DUALTL_DATA ?= $(abspath $(or $(DATA),../shared/data))
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONHASHSEED = 0

.PHONY: reproduce test lab explore bench clean

reproduce: .venv/installed
	$(BIN)/snakemake --cores all --config run=$(RUN) --rerun-incomplete
	$(BIN)/python -m dualtl_lib summary $(RUN)

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/python -m pytest tests
	$(BIN)/python tests/notebooks.py

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

explore: .venv/installed
	$(BIN)/voila notebooks/09_explorer.ipynb

bench: .venv/installed
	$(BIN)/python benchmarks/deconvnet.py
	$(BIN)/python benchmarks/training.py

.venv/installed: pyproject.toml
	python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs .snakemake
