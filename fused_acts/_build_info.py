"""What the extension was built with and runs on."""

from importlib import metadata

import torch

from fused_acts._library import BUILD
from fused_acts.tables import ACTIVATIONS, VARIANTS

try:
    from fused_acts import _C
except ImportError:  # for another Python: the operators do without
    _C = None  # type: ignore[assignment]

try:
    __version__ = metadata.version("fused-acts")
except metadata.PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"


def check_tables() -> None:
    """Raises ImportError if the extension was built for other tables than those in Python."""
    if _C is None:
        return
    units = [(name, row.f.__name__, row.g.__name__) for name, row in VARIANTS.items()]
    activations = [(name, row.f.__name__) for name, row in ACTIVATIONS.items()]
    if (_C.variants(), _C.activations()) != (units, activations):
        raise ImportError(
            f"fused_acts was built from other sources, for {_C.variants()} and "
            f"{_C.activations()}. Build it again with `pip install .` in the source folder."
        )


def show_build() -> str:
    """A description of the build, like `torch.__config__.show()`."""
    build = BUILD
    isa = _C.build_info()["cpu_capability"] if _C else "unknown, without fused_acts._C"
    lines = [
        f"fused-acts {__version__}",
        f"built with torch {build['torch_version']}, running with torch {torch.__version__}",
        f"compiler: {build['compiler']}",
        f"CPU instruction set in use: {isa}",
    ]
    if build["cuda_version"]:
        lines.append(f"CUDA {build['cuda_version']} for {build['cuda_architectures']}")
    else:
        lines.append("without CUDA kernels")
    return "\n  - ".join(lines)
