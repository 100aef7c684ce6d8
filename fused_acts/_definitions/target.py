"""What a unit is compiled for: this processor's loops, and the GPUs at hand."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from fused_acts._build_info import cpu_capability
from fused_acts._library import BUILD
from fused_acts._toolchain import cuda

# Those of FUSED_ACTS_NATIVE, csrc/cpu/isa.h, and the loops of csrc/cpu that are not empty then. The
# unit gets the loops that the table's units run with, and so their bits.
_LEVELS = {"avx512_bf16": 3, "avx512": 2, "avx2": 1, "baseline": 0}
_LOOPS = {
    "avx512_bf16": ("avx512bf16_*", "avx512_f*", "avx2_f64", "scalar_*"),
    "avx512": ("avx512_*", "avx2_f64", "scalar_*"),
    "avx2": ("avx2_*", "scalar_*"),
    "baseline": ("scalar_*",),
}


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def cpu_flags() -> list[str]:
    level = _LEVELS.get(cpu_capability())
    return [f"-DFUSED_ACTS_NATIVE={level}"] if _is_x86() and level is not None else []


def cpu_loops() -> list[str]:
    """Of csrc/, as patterns."""
    names = _LOOPS.get(cpu_capability(), ("*",)) if _is_x86() else ("neon_*", "scalar_*")
    return [f"cpu/loops_{name}.cpp" for name in names]


@dataclass(frozen=True)
class Gpus:
    home: Path  # of the toolkit
    architectures: str  # as TORCH_CUDA_ARCH_LIST has them

    @property
    def nvcc(self) -> str:
        return str(self.home / "bin/nvcc")


def find_gpus() -> tuple[Gpus | None, str]:
    """What kernels are compiled for, or None and, if there is a GPU, why not."""
    setting = os.environ.get("FUSED_ACTS_CUDA", "auto")
    if setting == "0" or not torch.cuda.is_available():
        return None, ""
    if not BUILD.get("cuda_version"):
        return None, "this build of fused_acts has no CUDA kernels"
    home = cuda.find_cuda_home(os.environ, shutil.which("nvcc"))
    if home is None:
        return None, (
            "nvcc is neither in $CUDA_HOME nor on PATH nor in /usr/local/cuda: install the CUDA "
            f"toolkit {torch.version.cuda}, or set CUDA_HOME to where it is"
        )
    return Gpus(home, _architectures()), ""


def _architectures() -> str:
    """With PTX, for the GPUs of another machine that shares the cache."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return asked.replace(" ", ";")
    here = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(here)) + "+PTX"
