# make demo    sets up everything it needs and runs the main job in a simulated vCenter
# make test    sets up everything it needs and runs the tests
# make soak    all of what the tests take a sample of (kill points); long
# make check   formatting, lint, types, layers, YAML
# make lab     the simulated vCenter alone, in the background
# make lock    resolves the dependencies anew

PYTHON ?= $(shell for v in 3.11 3.12 3.13; do \
	command -v python$$v >/dev/null && python$$v -c 'import venv, ensurepip' 2>/dev/null \
	&& echo python$$v && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test soak check lab lock clean

demo: $(INSTALLED)
	$(BIN)/gpuvm demo

lab: $(INSTALLED)
	$(BIN)/gpuvm lab up

test: $(INSTALLED)
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not wheel and not soak"

soak: $(INSTALLED)
	$(BIN)/pytest -q -m soak

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

# A second call needs no download: the stamp is as new as what it was installed from.
$(INSTALLED): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --all-extras pyproject.toml -o requirements/dev.txt

clean:
	rm -rf .venv build dist
