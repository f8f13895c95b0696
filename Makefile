# The EMRRG kit in three commands. They need only python3 >= 3.10 and make; all else goes into .venv.
#
#   make demo   X-rays -> trained tiny model -> scored reports, in runs/demo/report.html
#   make lab    JupyterLab on the notebooks; make lab FOLDER=class opens the folder of a class
#   make book   the course as a website that needs no network, in runs/book/index.html
#   make slides one deck a notebook in runs/slides, and the two-page handout.pdf beside them
#   make lint   format, style and types as continuous integration checks them
#   make test   every test not marked slow, gpu, browser or notebooks, on all cores
#   make test-floor   tests of the model with the oldest and the newest packages that are allowed
#   make test-notebooks   run every notebook, unsolved and solved (seconds of each: at the end)
#   make browser-test   the explorers in JupyterLab, Notebook 7 and a page, in a real Chromium (screenshots: runs/browser)
#   make notebooks   execute the notebooks from their text twins and store the outputs
#
# `make PYTHON=python3.12 demo` chooses another Python. The set-up runs again only when a file it depends on
# changes. Nothing but plain make and a POSIX shell is used.

PYTHON = python3
BIN = .venv/bin
SETUP_FILES = pyproject.toml constraints.txt .ci/setup.sh

help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/.ready-core
	$(BIN)/emrrg demo

# The server's root is the kit, so that links from the notebooks to its files work; a class's folder has copies of them.
lab: .venv/.ready-core
	@if [ "$$(id -u)" = 0 ]; then \
	    echo "you are root: JupyterLab starts with --allow-root" >&2; ROOT=--allow-root; fi; \
	exec $(BIN)/jupyter lab $$ROOT --ServerApp.root_dir=$(or $(FOLDER),.) \
	    --LabApp.default_url=/lab/tree/$(if $(FOLDER),,notebooks/)00_start_here.ipynb

book: .venv/.ready-dev
	$(BIN)/python -m emrrg_lib.course.book

slides: .venv/.ready-dev
	$(BIN)/python -m emrrg_lib.course.slides

lint: .venv/.ready-dev
	$(BIN)/ruff format --check emrrg_lib tests notebooks
	$(BIN)/ruff check emrrg_lib tests notebooks
	$(BIN)/mypy

test: .venv/.ready-dev
	$(BIN)/python -m pytest -n auto --dist loadscope $(PYTEST_ARGS)

test-floor:
	@PYTHON="$(PYTHON)" sh .ci/test_floor.sh

test-notebooks: .venv/.ready-dev
	$(BIN)/python -m pytest -m notebooks --durations=0 $(PYTEST_ARGS)

browser-test: .venv/.ready-dev
	$(BIN)/python -m pytest -m browser $(PYTEST_ARGS)

notebooks: .venv/.ready-dev
	$(BIN)/python -m emrrg_lib.course.build

.venv/.ready-core: $(SETUP_FILES)
	@PYTHON="$(PYTHON)" sh .ci/setup.sh core

.venv/.ready-dev: $(SETUP_FILES)
	@PYTHON="$(PYTHON)" sh .ci/setup.sh dev

.PHONY: help demo lab book slides lint test test-floor test-notebooks notebooks browser-test
