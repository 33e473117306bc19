# Everything a newcomer needs: `make demo` and `make test`. Each makes its own .venv if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
BUDGET ?= 4m

.PHONY: demo test test-slow check bench clean-demo

# what is installed is pinned by constraints.txt; the stamp is renewed when either file changes
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# train on the embedded photographs of clothing for BUDGET, sample, and say where the pictures are
demo: $(VENV)/.installed
	$(BIN)/undye train cpu --data fashion-mini --out $(DEMO) --budget $(BUDGET) --resume
	$(BIN)/undye sample $(DEMO) --n 64 --seed 0 --out $(DEMO)/demo/samples.png
	$(BIN)/undye sample $(DEMO) --n 8 --seed 0 --film $(DEMO)/demo/film.gif
	@echo
	@echo "64 images your machine has just dreamed up:  $(DEMO)/demo/samples.png"
	@echo "how they came out of noise:                  $(DEMO)/demo/film.gif"
	@echo "how the model learned:                       $(DEMO)/samples/"

clean-demo:
	rm -rf $(DEMO)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

# each test computes on one thread, so two of them at a time is what two cores are for
test: check
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --timeout 3600

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt denoising-diffusion-pytorch diffusers
	$(BIN)/python -m benchmarks.peers
