"""What the extension was built with and runs on."""

import warnings
from importlib import metadata

import torch

from fused_acts._library import BUILD
from fused_acts.tables import ACTIVATIONS, VARIANTS

try:
    __version__ = metadata.version("fused-acts")
except metadata.PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"


def _rows(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in table.splitlines()]


def compiled_variants() -> list[tuple[str, ...]]:
    """(variant, f, g) of each row of the table in C++."""
    return _rows(torch.ops.fused_acts.info_variants())


def compiled_activations() -> list[tuple[str, ...]]:
    """(activation, f) of each row of the table in C++."""
    return _rows(torch.ops.fused_acts.info_activations())


def cpu_capability() -> str:
    """The instruction set in use; FUSED_ACTS_CPU_CAPABILITY lowers it."""
    capability: str = torch.ops.fused_acts.info_cpu_capability()
    return capability


def launch_plan(
    dtype: str,
    rows: int,
    cols: int,
    *,
    layout: str = "separate",
    row_stride: int | None = None,
    offset: int = 0,
    backward: bool = False,
    widest_access: int = 16,
) -> dict[str, int | str]:
    """What a CUDA kernel would be launched with, on any machine: csrc/info/info.cpp says more."""
    kind, *plan = torch.ops.fused_acts.info_launch_plan(
        dtype, rows, cols, layout, row_stride, offset, backward, widest_access
    )
    names = ("grid", "block", "bytes_per_access", "vectors_per_thread")
    return {"kernel": ("flat", "row", "general")[kind], **dict(zip(names, plan, strict=True))}


def check_tables() -> None:
    """Raises ImportError if the extension was built for other tables than those in Python."""
    units = [(name, row.f.__name__, row.g.__name__) for name, row in VARIANTS.items()]
    activations = [(name, row.f.__name__) for name, row in ACTIVATIONS.items()]
    compiled = (compiled_variants(), compiled_activations())
    if compiled != (units, activations):
        raise ImportError(
            f"fused_acts was built from other sources, for {compiled[0]} and {compiled[1]}. Build "
            "it again with `pip install .` in the source folder."
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
    cuda = f"CUDA {build['cuda_version']} for {build['cuda_architectures']}"
    return [
        f"fused-acts {__version__}",
        f"built with torch {build['torch_version']}, running with torch {torch.__version__}",
        f"compiler: {build['compiler']}",
        f"CPU instruction set in use: {cpu_capability()}",
        cuda if build["cuda_version"] else "without CUDA kernels",
    ]


def show_build() -> str:
    """A description of the build, like `torch.__config__.show()`.

    `python -m fused_acts info` says more.
    """
    return "\n  - ".join(build_facts())
