"""Whether CUDA kernels are built, with which toolkit and flags, and for which architectures."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

FLAGS = [
    "-std=c++17",
    "-O3",
    "--fmad=false",  # all that is to be fused is written so
    "-Xcompiler=-fvisibility=hidden",
]
DEFAULT_ARCHITECTURES = ("8.0", "9.0", "10.0", "10.3", "12.0")
# The names that torch.utils.cpp_extension takes too.
FAMILIES = {
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}
SETTINGS = ("auto", "0", "1")


def find_cuda_home(
    environ: Mapping[str, str], nvcc: str | None, default: Path = Path("/usr/local/cuda")
) -> Path | None:
    """The first toolkit that has both compiler and headers; `nvcc` is the one found on PATH.

    An nvcc on PATH can be a wrapper that lies far from its toolkit, hence the look at the files.
    """
    candidates = [Path(environ["CUDA_HOME"])] if environ.get("CUDA_HOME") else []
    if nvcc:
        candidates += [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent]
    for home in [*candidates, default]:
        if (home / "include/cuda_runtime.h").is_file() and (home / "bin/nvcc").is_file():
            return home
    return None


def wants_cuda(
    setting: str, torch_version: str, torch_cuda: str | None, cuda_home: Path | None, has_gpu: bool
) -> bool:
    """Decide by FUSED_ACTS_CUDA (`setting`); `torch_cuda` is the CUDA version of torch, if any.

    A visible GPU never switches CUDA on (builders often have none). It only turns what would be a
    CPU build by oversight into an error.
    """
    if setting not in SETTINGS:
        raise SystemExit(f"FUSED_ACTS_CUDA must be auto, 0 or 1, not {setting!r}")
    if setting == "0":
        return False

    missing = []
    if not torch_cuda:
        missing.append(
            f"a CUDA build of torch (torch {torch_version} is not one): choose a CUDA version at "
            "https://pytorch.org/get-started/locally and install torch as it says there"
        )
    if not cuda_home:
        missing.append(
            f"the CUDA toolkit{' ' + torch_cuda if torch_cuda else ''} (bin/nvcc and "
            "include/cuda_runtime.h), which is neither in $CUDA_HOME nor around the nvcc on PATH "
            "nor in /usr/local/cuda: install it from https://developer.nvidia.com/cuda-downloads "
            "or set CUDA_HOME to where it is"
        )
    if missing and setting == "1":
        raise SystemExit("FUSED_ACTS_CUDA=1 needs " + ", and ".join(missing))
    if missing and torch_cuda and has_gpu:
        raise SystemExit(
            "There is a GPU and a CUDA build of torch, but the CUDA kernels also need "
            f"{missing[0]}. For a build without them set FUSED_ACTS_CUDA=0"
        )
    return not missing


def architectures(requested: str | None, supported: Collection[str]) -> str:
    """The value for TORCH_CUDA_ARCH_LIST: the one set, or the defaults that nvcc supports.

    `supported` holds the words of `nvcc --list-gpu-arch`, such as "compute_90". The last default
    also gets PTX, for GPUs that came later.
    """
    if requested:
        return requested.replace(" ", ";")
    chosen = [a for a in DEFAULT_ARCHITECTURES if f"compute_{a.replace('.', '')}" in supported]
    if not chosen:
        raise SystemExit(
            f"nvcc supports none of the architectures {', '.join(DEFAULT_ARCHITECTURES)}: "
            "install a newer CUDA toolkit or set TORCH_CUDA_ARCH_LIST"
        )
    return ";".join(chosen) + "+PTX"


def toolkit_version(said: str) -> str:
    """Of what `nvcc --version` says, such as "13.0"."""
    found = re.search(r"release (\d+\.\d+)", said)
    if not found:
        raise SystemExit(f"nvcc --version says no release, but {said.strip()!r}: set CUDA_HOME")
    return found[1]


def check_toolkit(toolkit: str, home: Path, torch_version: str, torch_cuda: str) -> None:
    """Refuses a toolkit of another major version than the CUDA libraries that torch loads."""
    major = torch_cuda.partition(".")[0]
    if toolkit.partition(".")[0] != major:
        raise SystemExit(
            f"torch {torch_version} is built for CUDA {torch_cuda}, and the CUDA toolkit in {home} "
            f"is {toolkit}: set CUDA_HOME to a toolkit {major}.x (https://developer.nvidia.com/"
            "cuda-toolkit-archive), install a torch for this one, or set FUSED_ACTS_CUDA=0 for a "
            "build without CUDA kernels"
        )


def nvcc_architectures(names: str) -> list[str]:
    """The flags of nvcc for a TORCH_CUDA_ARCH_LIST such as "8.0;9.0a;10.0+PTX" or "Hopper"."""
    if names == "native":
        return ["-arch=native"]
    flags = []
    for name in filter(None, ";".join(FAMILIES.get(n, n) for n in names.split(";")).split(";")):
        parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if not parts:
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST must be numbers such as 8.0;9.0;10.0+PTX, or one of "
                f"{', '.join(FAMILIES)}, not {name!r}"
            )
        number = "".join(parts.group(1, 2, 3))
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if parts[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return list(dict.fromkeys(flags))


class Toolkit:
    """The CUDA toolkit that kernels are compiled with."""

    def __init__(self, home: Path, torch_version: str, torch_cuda: str):
        self.home = home
        self.nvcc = str(home / "bin/nvcc")
        self.version = toolkit_version(self._ask("--version"))
        check_toolkit(self.version, home, torch_version, torch_cuda)
        self.architectures = architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST"), self._ask("--list-gpu-arch").split()
        )

    def _ask(self, option: str) -> str:
        return subprocess.check_output([self.nvcc, option], text=True)

    @staticmethod
    def find(torch_version: str, torch_cuda: str | None, has_gpu: bool) -> "Toolkit | None":
        """None for a build without CUDA kernels."""
        home = find_cuda_home(os.environ, shutil.which("nvcc"))
        setting = os.environ.get("FUSED_ACTS_CUDA", "auto")
        wanted = wants_cuda(setting, torch_version, torch_cuda, home, has_gpu)
        return Toolkit(home, torch_version, torch_cuda) if wanted and home and torch_cuda else None
