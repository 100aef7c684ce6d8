"""Writes build.toml, which tells Hugging Face's kernel-builder what to compile.

    python tools/write_hub.py [--check]

kernel-builder takes no patterns, so this lists the files of csrc/. With --check, exits with 1 if
build.toml differs.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build.toml"
CXX_FLAGS = ["-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
CUDA_FLAGS = ["-O3", "--fmad=false", "-Xcompiler=-fvisibility=hidden"]
ENDINGS = (".cpp", ".h", ".cu", ".cuh")
TEMPLATE = """\
# Written by tools/write_hub.py.
[general]
name = "fused-acts"
version = 0
edition = 5
license = "Apache-2.0"
backends = ["cpu", "cuda"]

[torch]
include = ["csrc"]
cxx-flags = {cxx}
src = {operators}

[torch.stable-abi]
cpu = "2.10"
cuda = "2.10"

[kernel.loops]
backend = "cpu"
depends = ["torch"]
include = ["csrc"]
cxx-flags = {cxx}
src = {loops}

# What a CUDA build runs on the CPU.
[kernel.loops_beside_cuda]
backend = "cuda"
depends = ["torch"]
include = ["csrc"]
cxx-flags = {cxx}
src = {loops}

[kernel.cuda]
backend = "cuda"
depends = ["torch"]
include = ["csrc"]
cuda-flags = {nvcc}
src = {kernels}
"""


def sources(*folders: str) -> list[str]:
    """Files of folders of csrc/, headers too."""
    found = [path for folder in folders for path in (ROOT / "csrc" / folder).rglob("*.*")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.suffix in ENDINGS)


def one_a_line(values: list[str]) -> str:
    return "".join(["[\n", *(f"    {json.dumps(value)},\n" for value in values), "]"])


def text() -> str:
    operators = ["torch-ext/torch_binding.cpp", *sources("info", "kernels", "math", "ops")]
    # csrc/info/ asks for the instruction set and the launch plan.
    shared = ["csrc/cpu/isa.h", "csrc/cuda/plan.h"]
    return TEMPLATE.format(
        cxx=json.dumps(CXX_FLAGS),
        nvcc=json.dumps(CUDA_FLAGS),
        operators=one_a_line([*operators, *shared]),
        loops=one_a_line(sources("cpu")),
        kernels=one_a_line(sources("cuda")),
    )


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        BUILD.write_text(text())
    elif not BUILD.is_file() or BUILD.read_text() != text():
        sys.exit("build.toml is not what tools/write_hub.py writes: run it")


if __name__ == "__main__":
    main()
