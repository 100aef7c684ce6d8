"""What the extension was built with and runs on."""

from importlib import metadata

import torch

from fused_acts import _C

try:
    __version__ = metadata.version("fused-acts")
except metadata.PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"


def show_build() -> str:
    """A description of the build, like `torch.__config__.show()`."""
    build = _C.build_info()
    lines = [
        f"fused-acts {__version__}",
        f"built with torch {build['torch_version']}, running with torch {torch.__version__}",
        f"compiler: {build['compiler']}",
        f"CPU instruction set in use: {build['cpu_capability']}",
    ]
    if build["cuda_version"]:
        lines.append(f"CUDA {build['cuda_version']} for {build['cuda_architectures']}")
    else:
        lines.append("without CUDA kernels")
    return "\n  - ".join(lines)
