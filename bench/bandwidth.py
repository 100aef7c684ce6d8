"""The machine's own memory bandwidth: the limit that every operator is held against.

On the CPU a few lines of C++ (stream.cpp) are compiled on first use and kept in the user's cache
folder. Without a compiler, and on CUDA, torch's own add and copy serve instead.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .machine import cpu_model
from .timing import Call, Clock, Label, Sampler, buffer_sets, interleave, make_sampler

LIMIT = "limit"
SOURCE = Path(__file__).with_name("stream.cpp")
SIZES = (256 * 2**10, 4 * 2**20, 128 * 2**20)  # bytes of one tensor: near cache, cache, memory

Stream = Callable[[int, int, int, int, int, int], int]


@functools.cache
def stream_library() -> Stream | None:
    """`stream` of stream.cpp, or None where it cannot be compiled."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    torch_lib = Path(torch.__file__).parent / "lib"
    key = f"{SOURCE.read_text()} {torch_lib} {torch.__version__} {compiler} {cpu_model()}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fused-acts"
    library = cache / f"stream-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    link = [f"-L{torch_lib}", "-ltorch_cpu", f"-Wl,-rpath,{torch_lib}"]
    try:
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                built = Path(folder) / library.name
                flags = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC"]
                command = [compiler, *flags, str(SOURCE), "-o", str(built), *link]
                subprocess.run(command, check=True, capture_output=True)
                built.rename(library)
        stream = ctypes.CDLL(str(library)).stream
    except (OSError, subprocess.CalledProcessError):
        return None
    stream.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] + [ctypes.c_int] * 2
    return stream


def limit_source(device: torch.device) -> str:
    """Where the limit comes from, for the report."""
    if device.type == "cuda":
        return "torch.add and copy_, operands cold"
    if stream_library() is None:
        return (
            "torch.add and copy_; no C++ compiler for non-temporal stores: the true limit is higher"
        )
    return "the better of plain and non-temporal stores, on torch's threads"


def limit_calls(a: Tensor, b: Tensor, out: Tensor, reads: int) -> dict[str, Call]:
    """Ways to read a (and b, with 2 reads) once and to write out once, by name."""
    size = out.numel() * out.element_size()
    stream = stream_library() if out.device.type == "cpu" else None
    if stream is None or size % 64 or out.data_ptr() % 64:
        if reads == 1:
            return {"torch": functools.partial(out.copy_, a)}
        return {"torch": functools.partial(torch.add, a, b, out=out)}
    return {
        "plain": stream_call(stream, a, b, out, size, reads, 0),
        "nontemporal": stream_call(stream, a, b, out, size, reads, 1),
    }


def stream_call(stream: Stream, a: Tensor, b: Tensor, out: Tensor, *numbers: int) -> Call:
    pointers = (a.data_ptr(), b.data_ptr(), out.data_ptr())

    def call(keep: tuple[Tensor, ...] = (a, b, out)) -> None:  # the pointers keep nothing alive
        stream(*pointers, *numbers)

    return call


def limit_samplers(
    sets: Sequence[tuple[Tensor, Tensor, Tensor]], reads: int = 2
) -> dict[Label, Sampler]:
    """sets: (a, b, out) each, contiguous and of one size; the labels are (LIMIT, name)."""
    by_name: dict[str, list[Call]] = {}
    for a, b, out in sets:
        for name, call in limit_calls(a, b, out, reads).items():
            by_name.setdefault(name, []).append(call)
    device = sets[0][2].device
    return {(LIMIT, name): make_sampler(calls, device) for name, calls in by_name.items()}


@dataclass(frozen=True)
class Bandwidth:
    """The best of many rounds at one size of tensor. 1 GB is 10^9 bytes."""

    tensor_bytes: int
    copy_gb_per_s: float  # 1 read, 1 write
    mix_gb_per_s: float  # 2 reads, 1 write


def measure_bandwidth(device: torch.device, memory: float) -> list[Bandwidth]:
    return [measure_size(size, device) for size in SIZES if 4 * size <= memory]


def measure_size(size: int, device: torch.device) -> Bandwidth:
    def operand() -> Tensor:
        return torch.ones(size // 4, device=device)

    sets = [(operand(), operand(), operand()) for _ in range(buffer_sets(3 * size, device))]
    best = {}
    for reads in (1, 2):
        samplers = limit_samplers(sets, reads)
        timings = interleave(samplers, seconds=0.3, clock=Clock(10), max_rounds=15)
        best[reads] = (reads + 1) * size / 1e9 / min(map(timings.best_seconds, samplers))
    return Bandwidth(size, best[1], best[2])
