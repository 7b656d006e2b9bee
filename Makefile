# Two commands need nothing but Python 3.11 or later: `make demo` and `make test`. Both set up .venv by themselves.
# `make test-slow` runs the few tests that take long.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEMO := demo

.PHONY: demo page test test-slow test-gpu triton-server bench-check check format clean

demo: $(READY)
	mkdir -p $(DEMO)
	$(BIN)/python -m tools.render_room $(DEMO)/room.png --seed 21 --size 480x640
	$(BIN)/spd-export --ckpt spd/weights/atto_rooms.safetensors --out engines --name demo --force
	$(BIN)/spd-infer $(DEMO)/room.png --points grid:300 --engines engines/demo \
	    --out $(DEMO)/depth.csv --picture $(DEMO)/depth.png
	@echo "Look at $(DEMO)/depth.csv and $(DEMO)/depth.png"

# The page of spd-serve as a static site: the network runs in the visitor's browser. Needs npm.
page: $(READY)
	$(BIN)/spd-export --ckpt spd/weights/atto_rooms.safetensors --out engines --name page --precision fp16 --force
	$(BIN)/python -m tools.page engines/page --out site

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m slow

# Needs an NVIDIA GPU; each test says what it lacks.
test-gpu: $(READY)
	$(BIN)/python -m pytest tests/gpu -rs

# A Triton server that runs on a CPU, for tests/engines/triton, which are skipped without it. Its packages want older
# numpy and protobuf than ours. 450 MB.
triton-server: .venv-triton/ready

.venv-triton/ready: $(READY)
	$(BIN)/python -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check 'nvidia-pytriton==0.7.*' 'tritonclient[http,grpc]==2.73.*'
	touch .venv-triton/ready

# Counted costs against the committed ones; tests/tools/test_bench_check.py does the quick part of it.
bench-check: $(READY)
	$(BIN)/python -m tools.bench_check

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-triton $(DEMO) site engines/demo engines/page build/bench

# Made again whenever what it installs has changed. About 5.5 GB: torch for Linux comes with CUDA.
$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python 3.11 or later is needed, $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export,train,tools,dev]'
	touch $(READY)
