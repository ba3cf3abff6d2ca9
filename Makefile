# make demo    sets up everything it needs and runs the whole workflow in a simulated vCenter
# make test    sets up everything it needs and runs the tests
# make soak    all kill points, every trouble at every call, a hundred rounds; takes hours
# make engines other people's programs: SkyPilot, dstack and Ray read gpuvm's exports, Terraform and
#              Ansible use the lab (downloads 1 GB)
# make check   formatting, lint, types, layers, YAML, known vulnerabilities where their lists answer
# make light   checks, and the tests that need no lab and no TensorFlow, in a small environment
# make lab     the simulated vCenter alone, in the background
# make release sdist, wheel and SBOM of the last commit, in dist/
# make lock    updates the lock files in requirements/

PYTHON ?= $(shell for v in 3.11 3.12 3.13; do \
	command -v python$$v >/dev/null && python$$v -c 'import venv, ensurepip' 2>/dev/null \
	&& echo python$$v && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test soak engines check light lab lock release clean

demo: $(INSTALLED)
	$(BIN)/gpuvm demo

lab: $(INSTALLED)
	$(BIN)/gpuvm lab up

test: $(INSTALLED)
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not wheel and not soak and not engines"

soak: $(INSTALLED)
	$(BIN)/pytest -q -m soak

engines: $(INSTALLED)
	$(BIN)/pytest -q -m engines

check: $(INSTALLED)
	$(call checks,$(BIN),requirements/dev.txt)

light: .venv-light/.installed
	$(call checks,.venv-light/bin,requirements/light.txt)
	.venv-light/bin/pytest -q --light tests

define checks
	$(1)/ruff format --check .
	$(1)/ruff check .
	$(1)/mypy
	$(1)/lint-imports
	$(1)/yamllint --strict .
	$(1)/python requirements/audit.py $(2)
endef

# A second call needs no download: the stamp is as new as what it was installed from.
$(INSTALLED): requirements/dev.txt pyproject.toml
	$(call install,.venv,requirements/dev.txt)

.venv-light/.installed: requirements/light.txt pyproject.toml
	$(call install,.venv-light,requirements/light.txt)

define install
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed" >&2; exit 2; }
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --require-hashes -r $(2)
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
endef

release: $(INSTALLED)
	BIN=$(BIN) .ci/release dist

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --all-extras pyproject.toml -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --extra dev pyproject.toml -o requirements/light.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --constraint requirements/dev.txt pyproject.toml \
		-o requirements/runtime.txt

clean:
	rm -rf .venv .venv-light build dist
