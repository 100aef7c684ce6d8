"""The CUDA kernels by what they are, and what is counted of each."""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from machine_code import (
    ARCHITECTURES,
    ROOT,
    AnyKernel,
    Instruction,
    basic_blocks,
    compile_source,
    reachable,
    read_code,
)
from variants import variants

WIDEST = {80: 16, 90: 16, 100: 32}  # bytes of an access
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
ACCESSES = ("vector", "interleaved")

SYMBOL = (
    r"(forward|backward)_kernelINS_4UnitI(.*?)EENS0_6ConfigI(.*?)LNS0_6AccessE(\d)ELi(\d+)ELb(\d)EEE"
    r"(Lb1E)?"  # whether it writes the product too
)
ROW_SYMBOL = r"row_kernelINS_4UnitI(.*?)EENS0_9RowConfigI(.*?)Li(\d+)ELb(\d)ELb(\d)ELb0EEE"
ROUTED_SYMBOL = r"row_kernelINS0_7AnyUnitENS0_9RowConfigI(.*?)Li(\d+)ELb(\d)E"
QUANTIZED_SYMBOL = r"quantized_(groups|rows)_kernelINS0_15QuantizedConfigI(.*?)Lb(\d)ELi\d+EEEE"
GENERAL_SYMBOL = r"general_kernelIL.*?9DirectionE(\d)E(\w+?)EE?v"
DIRECTIONS = ("forward", "backward", "double backward")
# {direction: (matrices read, written)} of a gated unit and of an activation
GATED = {"forward": (2, 1), "backward": (3, 2), "backward + product": (3, 3)}
UNARY = {"forward": (1, 1), "backward": (2, 1)}
OPTIONS = ("plain", "numbers", "rows", "learned")
ROWS = OPTIONS[2:]  # those of row kernels
ROWS_OF_THREAD = 8  # that it goes through in a row kernel, where there are enough
DTYPES = {"8BFloat16": "bfloat16", "7Float16": "float16", "f": "float32", "d": "float64"}

# Per multiprocessor.
WARPS, BLOCKS, REGISTERS = 64, 32, 65536
SHARED = {80: 164, 90: 228, 100: 228}  # KiB, of which a block takes one more than it asks for
WARPS_OF_BLOCK = (
    int(re.findall(r"kBlock = (\d+)", (ROOT / "csrc/cuda/plan.h").read_text())[0]) // 32
)
WARPS_OF_ROW = [  # with what columns and rows have, and without
    int(threads) // 32
    for threads in re.findall(
        r"kQuantizedThreads = \D+(\d+) : (\d+)",
        (ROOT / "csrc/cuda/quantized_kernels.cuh").read_text(),
    )[0]
]


@dataclass
class OtherKernel(AnyKernel):
    source: str  # a file without functions from the tables

    @property
    def name(self) -> str:
        return f"sm_{self.architecture}, a kernel of {self.source}"


@dataclass
class KernelOfUnits(AnyKernel):
    direction: str
    dtype: str
    access_bytes: int

    @property
    def resident_warps(self) -> int:
        registers_of_warp = -(-self.registers * 32 // 256) * 256
        warps = min(WARPS, REGISTERS // 4 // registers_of_warp * 4)
        by_shared = 1024 * SHARED[self.architecture] // (1024 + self.shared + self.shared_sums)
        return min(BLOCKS, warps // self.warps_of_block, by_shared) * self.warps_of_block

    @property
    def warps_of_block(self) -> int:
        return WARPS_OF_BLOCK

    @property
    def shared_sums(self) -> int:
        """Bytes of shared memory that a launch asks for."""
        return 0

    @property
    def occupancy(self) -> float:
        return self.resident_warps / WARPS

    @property
    def kilobytes(self) -> float:
        return 16 * len(self.instructions) / 1024


@dataclass
class GeneralKernel(KernelOfUnits):
    """All variants in one: for whatever alignment, or with 16 bytes for row weights and experts."""

    @property
    def name(self) -> str:
        return f"sm_{self.architecture} general {self.direction} {self.dtype} {self.access_bytes}"


@dataclass
class QuantizedKernel(KernelOfUnits):
    """All variants, formats and layouts in one."""

    scaled: str  # groups, or rows
    with_rows: bool  # with what columns and rows have

    @property
    def name(self) -> str:
        rows = ", operands of columns and rows" if self.with_rows else ""
        return f"sm_{self.architecture} quantised {self.scaled} {self.dtype}{rows}"

    @property
    def warps_of_block(self) -> int:
        """At most."""
        return WARPS_OF_BLOCK if self.scaled == "groups" else WARPS_OF_ROW[not self.with_rows]


@dataclass
class Kernel(KernelOfUnits):
    variant: str
    access: str
    unary: bool
    options: str

    @property
    def name(self) -> str:
        access = f"{self.options} {self.access} {self.access_bytes}"
        return f"sm_{self.architecture} {self.variant} {self.direction} {self.dtype} {access}"

    @property
    def is_wide(self) -> bool:
        """Whether it serves aligned operands with gate and up in two halves of a row."""
        widest = WIDEST[self.architecture]
        if self.options in ROWS and self.direction == "backward":
            widest = 16
        return self.access == "vector" and self.access_bytes == widest

    @property
    def is_main(self) -> bool:
        return self.is_wide and self.options == "plain"

    @property
    def matrices(self) -> tuple[int, int]:
        """That it reads and writes."""
        return (UNARY if self.unary else GATED)[self.direction]

    @property
    def bytes_per_element(self) -> int:
        return sum(self.matrices) * SIZES[self.dtype]

    @cached_property
    def hot_path(self) -> list[Instruction]:
        """All that can run in a thread which gets to a store of the full width.

        Of a row kernel the loop over rows is in it as often as a thread of a large call runs it.
        """
        blocks, successors = basic_blocks(self.instructions)
        widest = max(i.access_bits for i in self.instructions if i.operation == "STG")
        is_store = lambda i: i.operation == "STG" and i.access_bits == widest  # noqa: E731
        stores = {n for n, block in enumerate(blocks) if any(map(is_store, block))}
        predecessors = defaultdict(set)
        for n, following in successors.items():
            for m in following:
                predecessors[m].add(n)
        before, behind = reachable(stores, predecessors), reachable(stores, successors)
        hot = sorted((before | behind) & reachable({0}, successors))
        in_loop = before & behind if self.options in ROWS else set()
        times = {n: ROWS_OF_THREAD if n in in_loop else 1 for n in hot}
        return [i for n in hot for i in blocks[n] * times[n]]

    @property
    def elements(self) -> float:
        """Of a thread on the hot path."""
        if self.options in ROWS:
            return ROWS_OF_THREAD * self.access_bytes / SIZES[self.dtype]
        stores = [i.access_bits // 8 for i in self.hot_path if i.operation == "STG"]
        stored = sum(width for width in stores if width == max(stores))
        # with numbers a backward kernel may store the product too
        may = self.options == "numbers" and self.direction == "backward" and not self.unary
        return stored / SIZES[self.dtype] / (self.matrices[1] + may)

    @property
    def shared_sums(self) -> int:
        """Of the gradients by biases, and by a parameter where it is learned."""
        if self.options not in ROWS or self.direction == "forward":
            return 0
        sums = (3 if self.options == "learned" else 2) - (self.unary and self.options == "rows")
        return sums * 32 * WARPS_OF_BLOCK * 4 * self.access_bytes // SIZES[self.dtype]

    @property
    def shared_bytes(self) -> int:
        """Of shared memory that a thread moves on the hot path."""
        width = lambda i: next((int(w) for w in ("128", "64") if f".{w}" in i.name), 32)  # noqa: E731
        return sum(width(i) // 8 for i in self.hot_path if i.operation in ("LDS", "STS"))

    def per_element(self, operations: str = ".*") -> float:
        """Instructions of the hot path whose operation matches, by element."""
        pattern = re.compile(operations)
        return sum(bool(pattern.fullmatch(i.operation)) for i in self.hot_path) / self.elements


def read_kernels(cubin: Path, architecture: int) -> Iterator[AnyKernel]:
    name_of = variants()
    for symbol, kernel in read_code(cubin, architecture):
        any_kernel = tuple(vars(kernel).values())
        if found := re.search(GENERAL_SYMBOL, symbol):
            direction, dtype = found.groups()
            access_bytes = SIZES[dtype_of(dtype)]
            direction = DIRECTIONS[int(direction)]
            yield GeneralKernel(*any_kernel, direction, dtype_of(dtype), access_bytes)
        elif found := re.search(QUANTIZED_SYMBOL, symbol):
            scaled, dtype, with_rows = found.groups()
            yield QuantizedKernel(
                *any_kernel, "forward", dtype_of(dtype), 16, scaled, bool(int(with_rows))
            )
        elif found := re.search(ROUTED_SYMBOL, symbol):
            dtype, access_bytes, backward = found.groups()
            yield GeneralKernel(
                *any_kernel, DIRECTIONS[int(backward)], dtype_of(dtype), int(access_bytes)
            )
        elif found := re.search(ROW_SYMBOL, symbol):
            functions, dtype, access_bytes, backward, learned = found.groups()
            names = functions_in(functions)
            yield Kernel(
                *any_kernel, DIRECTIONS[int(backward)], dtype_of(dtype), int(access_bytes),
                name_of[names], "vector", names[-1] == "Unary", ROWS[int(learned)],
            )  # fmt: skip
        elif found := re.search(SYMBOL, symbol):
            direction, functions, dtype, access, access_bytes, plain, product = found.groups()
            options = "plain" if int(plain) else "numbers"
            direction += " + product" if product and int(plain) else ""
            names = functions_in(functions)
            yield Kernel(
                *any_kernel, direction, dtype_of(dtype), int(access_bytes),
                name_of[names], ACCESSES[int(access)], names[-1] == "Unary", options,
            )  # fmt: skip
        else:
            yield OtherKernel(*any_kernel, cubin.name.split(".")[0])


def functions_in(mangled: str) -> tuple[str, str]:
    names = re.findall(r"\d+([A-Z][A-Za-z0-9]*?)(?=E|NS)", mangled)
    return names[0], names[-1]


def dtype_of(mangled: str) -> str:
    return DTYPES[re.sub(r"^NS_(.*)E$", r"\1", mangled)]


def compile_into(folder: Path, source: Path, architecture: int) -> Path:
    return compile_source(source, architecture, folder / f"{source.stem}.sm_{architecture}.cubin")


def compile_kernels() -> tuple[
    list[Kernel], list[GeneralKernel], list[QuantizedKernel], list[OtherKernel]
]:
    """Every kernel for every architecture, in the order of the table of variants."""
    jobs = [(s, a) for s in sorted((ROOT / "csrc/cuda").rglob("*.cu")) for a in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(lambda job: compile_into(Path(folder), *job), jobs))
        every = [
            k for cubin, (_, a) in zip(cubins, jobs, strict=True) for k in read_kernels(cubin, a)
        ]
    order, dtypes = list(variants().values())[::-1], list(SIZES)
    kernels = [k for k in every if isinstance(k, Kernel)]
    kernels.sort(
        key=lambda k: (
            OPTIONS.index(k.options), k.unary, list(GATED).index(k.direction),
            order.index(k.variant), dtypes.index(k.dtype), k.architecture, k.access, k.access_bytes,
        )
    )  # fmt: skip
    general = [k for k in every if isinstance(k, GeneralKernel)]
    general.sort(
        key=lambda k: (
            DIRECTIONS.index(k.direction), dtypes.index(k.dtype), -k.access_bytes, k.architecture
        )
    )  # fmt: skip
    quantized = [k for k in every if isinstance(k, QuantizedKernel)]
    quantized.sort(key=lambda k: (k.scaled, k.with_rows, dtypes.index(k.dtype)))
    return kernels, general, quantized, [k for k in every if isinstance(k, OtherKernel)]
