"""What the extension was built with and runs on."""

import warnings
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


def check_gpu() -> None:
    """Warns, once a process as this is called on import, of a GPU that this build has no use for.

    device_count asks the driver's library, not CUDA, which would be of no use to forked processes.
    """
    if not BUILD.get("cuda_version") and torch.cuda.device_count() > 0:
        warnings.warn(
            "fused_acts was built without CUDA kernels, and there is a GPU: tensors on it will be "
            "refused. Install again with FUSED_ACTS_CUDA=1; `python -m fused_acts info` shows the "
            "build",
            stacklevel=2,
        )


def build_facts() -> list[str]:
    """What `show_build` shows, a fact a line."""
    build = BUILD
    isa = _C.build_info()["cpu_capability"] if _C else "unknown, without fused_acts._C"
    cuda = f"CUDA {build['cuda_version']} for {build['cuda_architectures']}"
    return [
        f"fused-acts {__version__}",
        f"built with torch {build['torch_version']}, running with torch {torch.__version__}",
        f"compiler: {build['compiler']}",
        f"CPU instruction set in use: {isa}",
        cuda if build["cuda_version"] else "without CUDA kernels",
    ]


def show_build() -> str:
    """A description of the build, like `torch.__config__.show()`.

    `python -m fused_acts info` says more.
    """
    return "\n  - ".join(build_facts())
