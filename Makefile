# make run | test | lab | render | bench; variables: DATASET PRESET SEED (one, or a list: SEED="0 1 2") NOTEBOOKS OUT DEVICE
PYTHON ?= python3
DATASET ?= digits
PRESET ?= quick
SEED ?= 0
NOTEBOOKS ?=
OUT ?= runs
DEVICE ?= auto
BIN := .venv/bin

run: .venv/ready
	$(BIN)/python -m nbutils run --dataset $(DATASET) --preset $(PRESET) --seed $(SEED) --notebooks "$(NOTEBOOKS)" --out "$(OUT)" --device $(DEVICE)

test: .venv/ready-to-test
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 --durations=8

lab: .venv/ready
	$(BIN)/jupyter lab --no-browser --ip=127.0.0.1 --notebook-dir=. --allow-root

render: .venv/ready
	$(BIN)/python -m nbutils render

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -r tests/benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1 adv-lib==0.2.8
	$(BIN)/python tests/benchmarks/attacks.py --out "$(OUT)" --device $(DEVICE)
	$(BIN)/python tests/benchmarks/detectors.py --out "$(OUT)" --device $(DEVICE)

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/ready-to-test: .venv/ready tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

.PHONY: run test lab render bench
