"""Quantised results: their kernels, and what one format takes of them.

A kernel has all units, formats and layouts. So the instructions counted are those of the same
source compiled for one of each (one_format.cu): of the shortest way through it for a thread that
has all its columns, writes a scale where it is one of a few, and by rows goes twice around.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

import roofline
from cuda_kernels import QuantizedKernel
from machine_code import (
    ARCHITECTURES,
    ROOT,
    AnyKernel,
    basic_blocks,
    compile_source,
    read_code,
    shortest_way,
)
from tables import markdown

SOURCE = ROOT / "tools/one_format.cu"
VECTORS = {"groups": 2, "rows": 1}  # of 8 columns, at once
COLUMNS = 16  # of a thread, at once or in two rounds


class Format(NamedTuple):
    scaled: str
    enumerator: str
    power: bool
    written: float  # bytes an element
    budget: dict[int, float]  # instructions an element


FORMATS = {
    "fp8_tensor": Format("groups", "kFp8Tensor", False, 1, {80: 37.5, 90: 25.5, 100: 19.5}),
    "fp8_block128": Format("groups", "kFp8Block128", False, 1.03, {80: 40.0, 90: 28.5, 100: 21.0}),
    "fp8_block128, pow2": Format(
        "groups", "kFp8Block128", True, 1.03, {80: 38.5, 90: 26.5, 100: 21.5}
    ),
    "mxfp8": Format("groups", "kMxfp8", True, 1.03, {80: 38.5, 90: 27.0, 100: 21.5}),
    "nvfp4": Format("groups", "kNvfp4", False, 0.56, {80: 37.5, 90: 39.5, 100: 31.0}),
    "fp8_row": Format("rows", "kFp8Row", False, 1, {80: 39.5, 90: 28.5, 100: 24.0}),
    "int8_row": Format("rows", "kInt8Row", False, 1, {80: 27.0, 90: 29.5, 100: 25.0}),
}
# Occupancies of the largest block, by registers: without operands of columns and rows, and with.
LEAST = {False: 0.5, True: 0.43}


def compile_format(name: str, architecture: int, folder: str) -> AnyKernel:
    scaled, enumerator, power, *_ = FORMATS[name]
    defines = {
        "KERNEL": f"quantized_{scaled}_kernel",
        "VECTORS": VECTORS[scaled],
        "FORMAT": enumerator,
        "POWER": int(power),
    }
    cubin = Path(folder) / f"{enumerator}_{power}.sm_{architecture}.cubin"
    compile_source(SOURCE, architecture, cubin, *(f"-D{n}={value}" for n, value in defines.items()))
    ((_, kernel),) = read_code(cubin, architecture)
    return kernel


def instructions(scaled: str, kernel: AnyKernel) -> float:
    """An element."""
    blocks, successors = basic_blocks(kernel.instructions)

    def having(operation: str, *bits: int) -> list[int]:
        return [
            n
            for n, block in enumerate(blocks)
            if any(i.operation == operation and i.access_bits in bits for i in block)
        ]

    *narrower, widest = sorted({i.access_bits for i in kernel.instructions if i.operation == "STG"})
    loads, stored = [[n] for n in having("LDG", 128)], [having("STG", widest)]
    if scaled == "rows":
        stops = [*loads, *loads, having("BAR", 0), *stored, *stored]
    else:
        scale = having("STG", *narrower)
        stops = [*loads, *([scale] if scale else []), *stored]
    return shortest_way(blocks, successors, stops) / COLUMNS


def count_formats() -> dict[str, dict[int, float]]:
    """{format: {architecture: instructions an element}}"""
    jobs = list(product(FORMATS, ARCHITECTURES))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cpu_count()) as pool:
        kernels = list(pool.map(lambda job: compile_format(*job, folder), jobs))
    counts: dict[str, dict[int, float]] = defaultdict(dict)
    for (name, architecture), kernel in zip(jobs, kernels, strict=True):
        counts[name][architecture] = instructions(FORMATS[name].scaled, kernel)
    return counts


def violations(
    kernels: Sequence[QuantizedKernel], counts: Mapping[str, Mapping[int, float]]
) -> Iterator[str]:
    wanted = len(ARCHITECTURES) * 3 * 2 * len(VECTORS)
    if len(kernels) != wanted:
        yield f"{len(kernels)} kernels of quantised results, not {wanted}"
    for k in kernels:
        if k.occupancy < LEAST[k.with_rows]:
            yield f"{k.name}: occupancy {k.occupancy:.0%}, less than {LEAST[k.with_rows]:.0%}"
    for name, architecture in product(FORMATS, ARCHITECTURES):
        count, budget = counts[name][architecture], FORMATS[name].budget[architecture]
        if count > budget:
            yield f"sm_{architecture} {name}: {count:.2f} instructions an element, not {budget:.2f}"


def can_issue(written: float, architecture: int) -> float:
    """Instructions an element while memory moves it, in bfloat16."""
    return roofline.ISSUE * (4 + written) / roofline.CHIPS[architecture].bytes_per_clock


def tables(
    kernels: Sequence[QuantizedKernel], counts: Mapping[str, Mapping[int, float]]
) -> Iterator[str]:
    head = [f"sm_{a}" for a in ARCHITECTURES]
    rows: dict[str, list[str]] = defaultdict(list)
    for k in kernels:
        operands = ", operands of columns and rows" if k.with_rows else ""
        cell = f"{k.registers} · {k.occupancy:.0%} · {k.kilobytes:.0f}"
        rows[f"{k.scaled}, {k.dtype}{operands}"].append(cell)
    yield from markdown(["a scale for", *head], rows)
    yield ""
    chips = ", ".join(chip.name for chip in roofline.CHIPS.values())
    cells = {
        name: [
            *(f"{count:.2f}" for count in counts[name].values()),
            ", ".join(f"{can_issue(form.written, a):.0f}" for a in ARCHITECTURES),
        ]
        for name, form in FORMATS.items()
    }
    yield from markdown(["swiglu in bfloat16", *head, f"{chips} can"], cells)
