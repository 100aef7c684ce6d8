"""From a definition to a shared library: the sources of csrc/, compiled for this one unit."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import fused_acts._toolchain.cuda as cuda
from fused_acts._definitions import cache
from fused_acts._definitions.compile import Command, Output, run_all
from fused_acts._definitions.definition import Definition
from fused_acts._definitions.source import check_source, explain, own_unit
from fused_acts._definitions.target import Gpus, cpu_flags, cpu_loops, find_gpus
from fused_acts._library import BUILD
from fused_acts._toolchain import cxx, sources

_PACKAGE = Path(__file__).resolve().parent.parent
# Of csrc/, beside the loops.
_SOURCES = ("cpu/isa.cpp", "own/unit.cpp")
_CUDA_SOURCES = ("cuda/instances/*.cu", "cuda/glu.cu", "cuda/quantized.cu", "cuda/launch.cu")


class NoCompiler(RuntimeError):
    """There is none, and the cache has no library of the definition."""


def csrc() -> Path:
    """In an installed package, or in the checkout of an editable one."""
    for folder in (_PACKAGE / "csrc", _PACKAGE.parent / "csrc"):
        if (folder / "own/unit.cpp").is_file():
            return folder
    raise FileNotFoundError(
        f"{_PACKAGE}/csrc, the sources that units are compiled from, is missing: install "
        "fused-acts again"
    )


def _identity(program: str) -> list[object]:
    """What changes with the version of a program, without running it."""
    path = Path(os.path.realpath(shutil.which(program) or program))
    found = path.stat() if path.is_file() else None
    return [str(path), found and found.st_size, found and found.st_mtime_ns]


def _flags() -> list[str]:
    return [*cxx.FLAGS, *cpu_flags(), *shlex.split(os.environ.get("CXXFLAGS", ""))]


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _entry(definition: Definition, gpus: Gpus | None, compiler: Sequence[str]) -> Path:
    """Its folder in the cache."""
    of_code = [own_unit(definition), sources.digest(csrc()), _flags()]
    of_code += [cxx.OPTIONAL_FLAGS, os.environ.get("LDFLAGS", ""), cuda.FLAGS]
    of_gpus = [gpus.architectures, *_identity(gpus.nvcc)] if gpus else []
    code = _digest([*of_code, *of_gpus])
    by = _digest([*compiler, *_identity(cxx.program(compiler))])
    return cache.cache_folder() / f"{code[:24]}-{by[:8]}"


def library(definition: Definition, verbose: bool | None) -> Path:
    """That of a definition, which is compiled where the cache does not have it.

    Raises ValueError for an expression that does not compile, NoCompiler, and RuntimeError.
    """
    if BUILD.get("sources", "") != sources.digest(csrc()):
        raise RuntimeError(
            f"{csrc()} is not what this fused_acts was built from, and units of both do not fit "
            "together: install fused-acts again"
        )
    output = Output(definition.name, verbose)
    gpus, reason = find_gpus()
    words = cxx.compilers()
    if not words:  # what another compiler made is as good
        entry = _entry(definition, gpus, ["c++"])
        for other in entry.parent.glob(f"{entry.name.rpartition('-')[0]}-????????"):
            if made := cache.find(other):
                return made
    entry = _entry(definition, gpus, words[0] if words else ["c++"])

    def build(folder: Path) -> None:
        try:
            compiler = cxx.find_compiler()
        except SystemExit as error:
            raise NoCompiler(str(error)) from None
        if reason:
            output.line(f"compiled for the CPU alone, as {reason}")
        compile_unit(definition, folder, compiler, gpus, output)

    def waiting() -> None:
        output.line("another process compiles it; waiting")

    return cache.find_or_build(entry, build, waiting)


def compile_unit(
    definition: Definition, folder: Path, compiler: Sequence[str], gpus: Gpus | None, output: Output
) -> None:
    """Writes folder/unit.so, and what it was made from."""
    (folder / "own_unit.h").write_text(own_unit(definition))
    (folder / "definition.json").write_text(json.dumps(asdict(definition), indent=2) + "\n")
    root = csrc()
    optional = cxx.accepted(compiler, cxx.OPTIONAL_FLAGS)
    own = [f"-I{root}", f"-I{folder}", "-DFUSED_ACTS_OWN"]
    flags = [*_flags(), *optional, *own]
    check_source(definition, folder, [*compiler, *flags], output)

    def commands(patterns: Sequence[str], words: Sequence[str]) -> list[Command]:
        paths = [path for pattern in patterns for path in sorted(root.glob(pattern))]
        return [
            Command(
                str(path.relative_to(root)),
                (*words, *extra(path), "-c", str(path), "-o", str(folder / f"{path.name}.o")),
            )
            for path in paths
        ]

    def extra(path: Path) -> list[str]:
        return ["-DUSE_CUDA"] if gpus and path.name == "unit.cpp" else []

    jobs = commands([*cpu_loops(), *_SOURCES], [*compiler, *flags])
    libraries: list[str] = []
    if gpus:
        nvcc = [gpus.nvcc, *cuda.FLAGS, *own, "-Xcompiler=-fPIC"]
        nvcc += cuda.nvcc_architectures(gpus.architectures)
        nvcc += ["-ccbin", cxx.program(compiler)] if "CXX" in os.environ else []
        jobs = commands(_CUDA_SOURCES, nvcc) + jobs
        libraries = [f"-L{gpus.home}/{name}" for name in ("lib64", "lib")] + ["-lcudart"]
    link = [*compiler, "-shared", "-o", str(folder / cache.LIBRARY)]
    link += [job.words[-1] for job in jobs]
    link += shlex.split(os.environ.get("LDFLAGS", ""))
    link += ["-Wl,-z,defs"] if sys.platform == "linux" else []
    if failed := run_all(jobs, Command(cache.LIBRARY, (*link, *libraries)), output):
        raise explain(definition, failed.said) or RuntimeError(
            f"{definition.name}: {failed.command.name} does not compile:\n"
            f"    {shlex.join(failed.command.words)}\n{failed.said[:4000]}"
        )
    for job in jobs:
        Path(job.words[-1]).unlink()
