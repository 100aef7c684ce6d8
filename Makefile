# Each target first sets up what it needs in $(VENV): torch, this package built in place, tools.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BENCH_ARGS ?=

bin = $(VENV)/bin
cxx = $(wildcard torch-ext/*.cpp) $(foreach suffix,h cpp cu cuh,$(wildcard csrc/*/*.$(suffix) csrc/cuda/instances/*.$(suffix)))
schema = $(bin)/check-jsonschema --quiet --builtin-schema vendor
built_from = $(cxx) $(wildcard build_backend/*.py fused_acts/_toolchain/*.py) setup.py pyproject.toml

.PHONY: test bench lint format stubs kernel-report cpu-report gallery wheel docs clean

test: $(VENV)/test.done
	$(bin)/python -m pytest -n 2 -m "not slow"

bench: $(VENV)/bench.done
	$(bin)/python -m bench $(BENCH_ARGS)

lint: $(VENV)/lint.done
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/python tools/check_layers.py
	$(bin)/mypy
	$(bin)/python tools/write_stubs.py --check
	$(bin)/python tools/check_types.py
	$(bin)/clang-format --dry-run -Werror $(cxx) $(wildcard bench/*.cpp tests/jets/*.cpp tools/*.cu)
	$(schema).citation-file-format CITATION.cff
	$(schema).github-workflows $(wildcard .github/workflows/*)
	$(schema).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(schema).github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*))

format: $(VENV)/lint.done
	$(bin)/ruff check --fix
	$(bin)/ruff format
	$(bin)/clang-format -i $(cxx) $(wildcard bench/*.cpp tests/jets/*.cpp tools/*.cu)

# What type checkers read of the tables: fused_acts/__init__.pyi and _names.py.
stubs: $(VENV)/lint.done
	$(bin)/python tools/write_stubs.py

# Registers, spills and instructions of the CUDA kernels, checked against their budgets, into
# docs/kernels.md; needs nvcc. One matplotlib, so that the picture changes with the kernels only.
kernel-report: $(VENV)/torch.done
	$(bin)/pip install --quiet nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm matplotlib==3.11.2
	$(bin)/python tools/kernel_report.py --write

# Instructions of the CPU loops of the build for this checkout, checked against their budgets, into
# docs/cpu.md.
cpu-report: $(VENV)/test.done
	$(bin)/python tools/cpu_report.py --write

# docs/activations.md and its pictures. One matplotlib, so that they change with the tables only.
gallery: $(VENV)/gallery.done
	$(bin)/pip install --quiet matplotlib==3.11.2
	$(bin)/python -m fused_acts gallery --out docs

# dist/: one wheel for every Python and every torch since 2.10 of the kind, CPU or CUDA, that it is
# built with. auditwheel writes in its name the oldest glibc that it runs with; torch and CUDA are
# the user's own.
wheel: $(VENV)/wheel.done
	rm -rf build/wheel dist/*.whl
	$(bin)/pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH=$(abspath $(bin)):$$PATH $(bin)/auditwheel repair --wheel-dir dist \
	  --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libcudart.so.*' build/wheel/*.whl

# The documentation site, site/index.html, from README.md, docs/ and the docstrings; its links, and where there is
# Chromium its pages, are tested.
docs: $(VENV)/docs.done
	rm -rf site docs/api
	$(bin)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto -c docs -d build/docs . site
	$(bin)/python -m pytest tests/test_docs_site.py

clean:
	rm -rf $(VENV) build dist site docs/api *.egg-info fused_acts/*.so fused_acts/_build.json

# The package with the extra that a target needs. Only changed sources are compiled again.
$(VENV)/%.done: $(VENV)/torch.done $(built_from)
	$(bin)/pip install --no-build-isolation --editable '.[$*]'
	touch $@

$(VENV)/torch.done:
	$(PYTHON) -m venv $(VENV)
	$(bin)/pip install '$(TORCH)' setuptools ninja
	touch $@
