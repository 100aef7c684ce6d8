"""Units of one's own as libraries: compiled from headers that are rows of the table once more."""

import os
import subprocess
from pathlib import Path

import torch
from cases import VARIANTS

from fused_acts import _build_info
from fused_acts._toolchain import cxx

ROOT = Path(__file__).resolve().parent.parent
CUDA_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")
HEADER = """\
#define FUSED_ACTS_PLAIN_VARIANTS(X) {plain_variant}
#define FUSED_ACTS_VARIANTS(X) FUSED_ACTS_PLAIN_VARIANTS(X) {variant}
#define FUSED_ACTS_PLAIN_ACTIVATIONS(X) {plain_activation}
#define FUSED_ACTS_ACTIVATIONS(X) FUSED_ACTS_PLAIN_ACTIVATIONS(X) {activation}
namespace fused_acts {{
template <class M>
using OwnFunction = {functor}<M>;
}}
"""
# {name in the table: (functor, whether it is in the plain tables)}. One without a parameter, one
# with, and an activation alone.
UNITS = {"swiglu": ("Swish", True), "elu_glu": ("Elu", False), "mish": ("Mish", True)}
FLAGS = ["-std=c++17", "-O1", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd", "-w", "-DFUSED_ACTS_OWN"]
LEVELS = {"baseline": 0, "avx2": 1, "avx512": 2, "avx512_bf16": 3}


def header(name: str) -> str:
    functor, plain = UNITS[name]
    kind = "variant" if name in VARIANTS else "activation"
    rows = dict.fromkeys(("plain_variant", "variant", "plain_activation", "activation"), "")
    row = f"X(own, OwnFunction, {'Identity' if kind == 'variant' else 'Unary'})"
    return HEADER.format(functor=functor, **rows | {f"plain_{kind}" if plain else kind: row})


def build(names: list[str], folder: Path, cuda: bool = False) -> dict[str, Path]:
    """The libraries, with the loops of the instruction set that the package runs here."""
    compiler = cxx.find_compiler()
    level = LEVELS.get(_build_info.cpu_capability())
    flags = FLAGS if level is None else [*FLAGS, f"-DFUSED_ACTS_NATIVE={level}"]
    sources = [ROOT / "csrc/own/unit.cpp", ROOT / "csrc/cpu/isa.cpp"]
    sources += sorted(ROOT.glob("csrc/cpu/loops_*.cpp"))
    running, link = [], ["-Wl,-z,defs"]
    for name in names:
        place = folder / name
        place.mkdir()
        (place / "own_unit.h").write_text(header(name))
        places = [f"-I{ROOT}/csrc", f"-I{place}", "-c"]
        commands = [[*compiler, *flags, *(["-DUSE_CUDA"] if cuda else []), *places, *sources]]
        if cuda:
            commands += [[*nvcc(), *places, *part] for part in halves(kernel_sources())]
            link += [f"-L{CUDA_HOME}/lib64", f"-L{CUDA_HOME}/lib", "-lcudart"]
        running += [subprocess.Popen([*map(str, command)], cwd=place) for command in commands]
    assert not any([process.wait() for process in running])
    for name in names:
        library, objects = f"{folder}/{name}.so", map(str, (folder / name).glob("*.o"))
        subprocess.run([*compiler, "-shared", "-o", library, *objects, *link], check=True)
    return {name: folder / f"{name}.so" for name in names}


def kernel_sources() -> list[Path]:
    whole = (ROOT / "csrc/cuda" / name for name in ("glu.cu", "launch.cu", "quantized.cu"))
    return [*whole, *sorted(ROOT.glob("csrc/cuda/instances/*.cu"))]


def halves(sources: list[Path]) -> tuple[list[Path], list[Path]]:
    return sources[::2], sources[1::2]


def nvcc() -> list[str]:
    """For the GPU at hand."""
    major, minor = torch.cuda.get_device_capability()
    number = f"{major}{minor}"
    flags = ["-std=c++17", "-O3", "--fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden", "-w"]
    flags += [f"-gencode=arch=compute_{number},code=[sm_{number},compute_{number}]"]
    return [f"{CUDA_HOME}/bin/nvcc", *flags, "-DFUSED_ACTS_OWN"]
