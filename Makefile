# make run | test | lab | render | bench | site; variables: DATASET PRESET SEED (one, or a list: SEED="0 1 2") NOTEBOOKS OUT DEVICE
# RUNS (of site: folders of runs)
PYTHON ?= python3
DATASET ?= digits
PRESET ?= quick
SEED ?= 0
NOTEBOOKS ?=
OUT ?= runs
DEVICE ?= auto
RUNS ?=
BIN := .venv/bin

# A value as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

# A variable that no goal uses would be accepted and ignored.
USED_run := DATASET PRESET SEED NOTEBOOKS OUT DEVICE
USED_bench := OUT DEVICE
USED_site := RUNS OUT
GOALS := $(or $(MAKECMDGOALS),run)
USED := PYTHON BIN $(foreach goal,$(GOALS),$(USED_$(goal)))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
UNUSED := $(filter-out MAKE% -% .% $(USED),$(GIVEN))
$(if $(UNUSED),$(error $(firstword $(UNUSED)) is no variable of make $(GOALS): it has $(or $(filter-out PYTHON BIN,$(USED)),none); \
other parameters go through $(BIN)/python -m nbutils run -p NAME VALUE))

run: .venv/ready
	$(call quoted,$(BIN))/python -m nbutils run --dataset $(call quoted,$(DATASET)) --preset $(call quoted,$(PRESET)) --seed $(call quoted,$(SEED)) --notebooks $(call quoted,$(NOTEBOOKS)) --out $(call quoted,$(OUT)) --device $(call quoted,$(DEVICE))

test: .venv/ready-to-test
	$(call quoted,$(BIN))/ruff check .
	OMP_NUM_THREADS=1 $(call quoted,$(BIN))/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 --durations=8

lab: .venv/ready
	$(call quoted,$(BIN))/jupyter lab --no-browser --ip=127.0.0.1 --notebook-dir=. --allow-root

render: .venv/ready
	$(call quoted,$(BIN))/python -m nbutils render

bench: .venv/ready
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -r tests/benchmarks/requirements.txt
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1 adv-lib==0.2.8
	$(call quoted,$(BIN))/python tests/benchmarks/attacks.py --out $(call quoted,$(OUT)) --device $(call quoted,$(DEVICE))
	$(call quoted,$(BIN))/python tests/benchmarks/detectors.py --out $(call quoted,$(OUT)) --device $(call quoted,$(DEVICE))
	$(call quoted,$(BIN))/python tests/benchmarks/rectifiers.py --out $(call quoted,$(OUT)) --device $(call quoted,$(DEVICE))
	$(call quoted,$(BIN))/python tests/benchmarks/white_box.py --out $(call quoted,$(OUT)) --device $(call quoted,$(DEVICE))

site: .venv/ready
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -r notebooks/site/requirements.txt
	$(call quoted,$(BIN))/python -m nbutils site --runs $(call quoted,$(RUNS)) --out $(call quoted,$(OUT))

.venv/ready: requirements.txt pyproject.toml
	$(call quoted,$(PYTHON)) -m venv .venv
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/ready-to-test: .venv/ready tests/requirements.txt
	$(call quoted,$(BIN))/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.PHONY: run test lab render bench site
