# Each target first sets up what it needs in $(VENV): torch, this package built in place, tools.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BENCH_ARGS ?=

bin = $(VENV)/bin
cxx = $(foreach suffix,h cpp cu cuh,$(wildcard csrc/*/*.$(suffix) csrc/cuda/instances/*.$(suffix)))
built_from = $(cxx) $(wildcard build_backend/*.py) setup.py pyproject.toml

.PHONY: test bench lint format stubs kernel-report gallery clean

test: $(VENV)/test.done
	$(bin)/python -m pytest -m "not slow"

bench: $(VENV)/bench.done
	$(bin)/python -m bench $(BENCH_ARGS)

lint: $(VENV)/lint.done
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/python tools/check_layers.py
	$(bin)/mypy
	$(bin)/python tools/write_stubs.py --check
	$(bin)/python tools/check_types.py
	$(bin)/clang-format --dry-run -Werror $(cxx) $(wildcard bench/*.cpp)

format: $(VENV)/lint.done
	$(bin)/ruff check --fix
	$(bin)/ruff format
	$(bin)/clang-format -i $(cxx) $(wildcard bench/*.cpp)

# What type checkers read of the tables: fused_acts/__init__.pyi and _names.py.
stubs: $(VENV)/lint.done
	$(bin)/python tools/write_stubs.py

# Registers, spills and instructions of the CUDA kernels, checked against their budgets, into
# docs/kernels.md; needs nvcc. One matplotlib, so that the picture changes with the kernels only.
kernel-report: $(VENV)/torch.done
	$(bin)/pip install --quiet nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm matplotlib==3.11.2
	$(bin)/python tools/kernel_report.py --write

# docs/activations.md and its pictures. One matplotlib, so that they change with the tables only.
gallery: $(VENV)/gallery.done
	$(bin)/pip install --quiet matplotlib==3.11.2
	$(bin)/python -m fused_acts gallery --out docs

clean:
	rm -rf $(VENV) build *.egg-info fused_acts/*.so fused_acts/_build.json

# The package with the extra that a target needs. Only changed sources are compiled again.
$(VENV)/%.done: $(VENV)/torch.done $(built_from)
	$(bin)/pip install --no-build-isolation --editable '.[$*]'
	touch $@

$(VENV)/torch.done:
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install '$(TORCH)' setuptools ninja pybind11
	touch $@
