# Everything here needs Python and make alone: each target first installs what it uses into $(VENV).
#
#   make train         writes the data, trains with averaged weights, and shows their accuracy on the test split and a
#                      picture of what averaging did
#   make test          the test suite; make test-pinned runs it on AllenNLP's own pins, under Python 3.10
#   make test-everywhere   the tests marked `everywhere` on the built wheel, in a fresh environment of each Python
#                      from 3.8 to 3.13 that is here; EVERYWHERE="3.8 3.9" for these alone, -j2 for two at a time
#   make test-peers    the averages against those of optax, timm and ema-pytorch, under Python 3.11 or later
#   make docs          the documentation, into build/docs: open build/docs/index.html
#   make lint          ruff and mypy; make format applies ruff's formatting
#   make dist          dist/, the sdist and the wheel: built, checked, and tested as they are installed: docs/releasing.md
#   make experiments   what averaging buys, on a treebank's tags in UD_EWT and its trees in UD_EWT_PARSES:
#                      experiments/README.md, hours on 2 cores; TASK=tagger for one task alone
#   make benchmark     how fast, against whom: benchmarks/README.md, 20 minutes on one core; UD_EWT as above, for a part
#   make install       $(VENV) from $(PYTHON), skipped when nothing changed
#   make lock          requirements/python3.N.txt afresh for $(PYTHON), from requirements/*.in
#   make clean         removes all that these wrote
#
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# "3.11 1a2b3c4d": the version, and which installation of it, so that $(VENV) follows an upgraded Python too.
INTERPRETER := $(shell $(PYTHON) -c 'import sys, zlib; \
	place = sys.version + getattr(sys, "base_prefix", sys.prefix); \
	print("%d.%d %08x" % (sys.version_info[:2] + (zlib.crc32(place.encode()) % 2**32,)))' 2>/dev/null)
VERSION := $(word 1,$(INTERPRETER))
LOCK := $(wildcard requirements/python$(VERSION).txt)
INSTALLED := $(VENV)/installed-$(word 2,$(INTERPRETER))

# The interpreter of a version, on the PATH or in pyenv.
find = $(shell for python in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; do \
	"$$python" -c 'import sys; assert sys.version.startswith("$(1)."); print(sys.executable)' 2>/dev/null && break; done)

PINNED_PYTHON ?= $(call find,3.10)
EVERYWHERE ?= 3.8 3.9 3.10 3.11 3.12 3.13

DOCS_VENV ?= .venv-docs

DATA := data/python_tokens
RUN := runs/python_tokens

# Where it is set, each process compiles all that it imports, and takes twice as long to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test test-pinned pinned-python test-everywhere test-peers dist distributions experiments treebank
.PHONY: benchmark docs lint format install lock clean
.DELETE_ON_ERROR:

# Warnings that nobody who trains can do anything about, each by its message and module: most come while AllenNLP
# imports its own dependencies, before any plug-in is loaded. What PYTHONWARNINGS says already goes before them.
NOT_FOR_USERS := ignore:Failed to load image Python extension:UserWarning:torchvision.io.image
NOT_FOR_USERS := $(NOT_FOR_USERS),ignore:User provided device_type of 'cuda':UserWarning:torch.amp.autocast_mode
GOOGLE := google.api_core._python_version_support
NOT_FOR_USERS := $(NOT_FOR_USERS),ignore:You are using a non-supported Python version:FutureWarning:$(GOOGLE)
NOT_FOR_USERS := $(NOT_FOR_USERS),ignore:You are using a Python version:FutureWarning:$(GOOGLE)

train: export PYTHONWARNINGS := $(NOT_FOR_USERS),$(PYTHONWARNINGS)
train: install
	$(BIN)/python fixtures/python_tokens.py $(DATA)
	$(BIN)/allennlp train training_configs/python_tokens.jsonnet --serialization-dir $(RUN) --force
	$(BIN)/allennlp evaluate $(RUN)/model.tar.gz $(DATA)/test.tsv --output-file $(RUN)/test_averaged.json
	$(BIN)/allennlp evaluate $(RUN)/model.tar.gz $(DATA)/test.tsv --output-file $(RUN)/test_raw.json \
		--weights-file "$$(ls -t $(RUN)/model_state_*.th | head -n 1)"
	@echo "test accuracy, averaged weights:  $$($(call accuracy,$(RUN)/test_averaged.json))"
	@echo "test accuracy, last raw weights:  $$($(call accuracy,$(RUN)/test_raw.json))"
	@echo "model:                            $(RUN)/model.tar.gz"
	@echo "averaged and raw, by epoch:       $(RUN)/moving_average.png"
	@echo "what is there, what averages of other lengths would be worth:"
	@echo "    $(BIN)/allennlp average inspect $(RUN) && $(BIN)/allennlp average sweep $(RUN) $(DATA)/dev.tsv"

accuracy = $(BIN)/python -c 'import json; print("%.4f" % json.load(open("$(1)"))["accuracy"])'

# Processes that share the test files. On torch 1.12 one: beside others, its gloo now and then aborts a worker at its end.
WORKERS ?= 2

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests

test-pinned: pinned-python
	$(MAKE) test PYTHON=$(PINNED_PYTHON) VENV=.venv-pinned WORKERS=0

pinned-python:
	$(if $(PINNED_PYTHON),,$(error No Python 3.10 is on the PATH or in pyenv, and AllenNLP's own pins need one \
		(or give it as PINNED_PYTHON=...)))
	@echo "AllenNLP's own pins run on $(PINNED_PYTHON)"

test-everywhere: $(EVERYWHERE:%=everywhere-%)

everywhere-%: distributions
	@$(if $(call find,$*),.ci/test_installed $(call find,$*) dist/*.whl,echo "Python $*: left out, it is not here.")

test-peers: install
	$(BIN)/python -m pip install --no-deps -r requirements/peers.txt
	$(BIN)/python -m pytest tests/peers

# Pages and docstrings are read, nothing is imported: neither torch nor AllenNLP is needed.
docs: $(DOCS_VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	$(DOCS_VENV)/bin/python docs/check_site.py build/docs
	@echo "documentation: build/docs/index.html; with its search: $(PYTHON) -m http.server -d build/docs"

$(DOCS_VENV)/installed: requirements/docs.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --no-deps -r requirements/docs.txt
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# As the README has it: where AllenNLP's pins can be met, the extra; else the two lines.
dist: distributions
	.ci/test_installed $(PYTHON) dist/*.tar.gz
	.ci/test_installed $(PYTHON) dist/*.whl
	$(if $(PINNED_PYTHON),.ci/test_installed $(PINNED_PYTHON) "$$(echo dist/*.whl)[allennlp]",\
		@echo "The extra is not tried: it needs Python 3.8 to 3.10.")

distributions:
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-dist
	.venv-dist/bin/python -m pip install --quiet -r requirements/dist.txt
	.venv-dist/bin/python -m build --no-isolation
	.venv-dist/bin/twine check --strict dist/*

experiments: treebank install
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/allennlp_models -r experiments/requirements.txt
	$(BIN)/python -m experiments.run $(TASK)

treebank:
	$(if $(wildcard $(UD_EWT)/train.tsv),,$(error Set UD_EWT to the folder of a treebank's train.tsv and dev.tsv))

benchmark: install
	$(BIN)/python -m pip install --no-deps -r benchmarks/requirements.txt
	$(BIN)/python -W ignore -m benchmarks.run

install: $(INSTALLED)

# Python compiles what it imports. For pip to compile everything takes longer than all else that it does.
$(INSTALLED): $(LOCK) requirements/without_dependencies.txt setup.py pyproject.toml
	$(supported)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --no-compile -r $(LOCK)
	$(BIN)/python -m pip install --no-compile --no-deps -r requirements/without_dependencies.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

supported = $(if $(LOCK),,$(error allennlp_ema runs on Python 3.8 to 3.13, and PYTHON=$(PYTHON) is \
	$(if $(VERSION),Python $(VERSION),not one that runs)))

lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python requirements/lock.py

clean:
	rm -rf .venv .venv-pinned .venv-dist $(DOCS_VENV) $(DATA) $(RUN) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
