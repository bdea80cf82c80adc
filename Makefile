# The oldest Python that is supported, if there is one, for the lowest versions of other packages;
# `PYTHON=` names another.
ifeq ($(origin PYTHON), undefined)
OLDEST = $(or $(shell python3.10 -c "import sys; print(sys.executable)" 2> /dev/null), python3)
else
OLDEST = $(PYTHON)
endif

# A fresh machine needs only Python and make: `make demo` and `make test` install the rest in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-lowest bench check format wheel rehearsal release docs docs-serve
.PHONY: pictures clean

demo: .venv/.demo
	$(BIN)/python examples/fit_digits.py

# Networks this small are faster on one thread each, so every core takes a file of tests instead.
# The order is kept, because files of few tests are the longest and would otherwise be the last.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test: .venv/.dev
	$(PYTEST)

test-all: .venv/.dev
	$(PYTEST) -m ""

# With the lowest versions that pyproject.toml allows. A part: `make test-lowest TESTS=tests/probe`.
test-lowest: .venv-lowest/.dev
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(PARALLEL) $(TESTS)

# Tables in benchmarks/RESULTS.md; options as in `make bench BENCH="--quick"`.
bench: .venv/.bench
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(BENCH)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: .venv/.dev
	$(BIN)/python -m build --outdir dist

# Build, check and say what to upload; nothing is uploaded. A rehearsal does so with what is here.
release rehearsal: .venv/.dev
	$(BIN)/python release.py $(if $(filter rehearsal, $@), --rehearsal)

# The pages of docs/ and the reference, as a site in site/; a link that leads nowhere is an error.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

docs: .venv/.docs
	$(MKDOCS) build --strict

docs-serve: .venv/.docs
	$(MKDOCS) serve --dev-addr 127.0.0.1:8000 --watch README.md --watch lightning_saliency

pictures: .venv/.dev
	$(BIN)/python docs/make_pictures.py
	$(BIN)/python docs/make_honest_picture.py
	$(BIN)/python docs/make_methods_picture.py
	$(BIN)/python docs/make_attention_picture.py
	$(BIN)/python docs/make_viewer_picture.py

clean:
	rm -rf .venv .venv-lowest dist logs site

# One call of pip installs torch and torchvision: a pair from two package indexes does not import.
.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --editable ".[examples]"
	touch $@

.venv/.bench: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --editable ".[bench]"
	touch $@ .venv/.demo

.venv/.docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --editable ".[docs]"
	touch $@

# Of the thousands of files of torch and the tools, those that are imported are compiled then.
.venv/.dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --no-compile --editable ".[dev]"
	touch $@ .venv/.demo .venv/.docs

# The bounds are read from the metadata of the package, so it is installed by itself first.
.venv-lowest/.dev: pyproject.toml tests/support/lowest.py
	$(OLDEST) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable .
	.venv-lowest/bin/python tests/support/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --editable ".[dev]" \
		--constraint .venv-lowest/lowest.txt
	touch $@
