"""Compiles the CUDA kernels and reads the machine code; no GPU is needed.

Needs nvcc, and cuobjdump and nvdisasm (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm).
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ARCHITECTURES = (80, 90, 100)
WIDEST = {80: 16, 90: 16, 100: 32}  # bytes of an access
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
ACCESSES = ("vector", "interleaved")

SYMBOL = (
    r"(forward|backward)_kernelINS_4UnitI(.*?)EENS0_6ConfigI(.*?)LNS0_6AccessE(\d)ELi(\d+)ELb(\d)EEE"
    r"(Lb1E)?"  # whether it writes the product too
)
ROW_SYMBOL = r"row_kernelINS_4UnitI(.*?)EENS0_9RowConfigI(.*?)Li(\d+)ELb(\d)ELb(\d)ELb0EEE"
ROUTED_SYMBOL = r"row_kernelINS0_7AnyUnitENS0_9RowConfigI(.*?)Li(\d+)ELb(\d)E"
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


@dataclass
class Instruction:
    address: int
    predicate: str
    name: str  # modifiers included
    arguments: str

    @property
    def operation(self) -> str:
        return self.name.split(".")[0]

    @property
    def target(self) -> int | None:
        found = re.findall(r"0x[0-9a-f]+", self.arguments)
        return int(found[-1], 16) if self.operation == "BRA" and found else None

    @property
    def access_bits(self) -> int:
        """Width of an access to global memory, 0 for other instructions."""
        if self.operation not in ("LDG", "STG"):
            return 0
        for width in ("256", "128", "64", "U16", "U8"):
            if f".{width}" in self.name:
                return int(width.strip("U"))
        return 32


@dataclass
class AnyKernel:
    architecture: int
    instructions: list[Instruction]
    registers: int
    stack: int
    shared: int  # bytes, without those given at the launch


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
        return min(BLOCKS, warps // WARPS_OF_BLOCK, by_shared) * WARPS_OF_BLOCK

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


Blocks = list[list[Instruction]]


def basic_blocks(instructions: list[Instruction]) -> tuple[Blocks, dict[int, set[int]]]:
    ends = ("BRA", "EXIT")
    starts = {0, *(i.address + 16 for i in instructions if i.operation in ends)}
    starts |= {i.target for i in instructions if i.target is not None}
    blocks: Blocks = []
    number = {}
    for instruction in instructions:
        if instruction.address in starts:
            number[instruction.address] = len(blocks)
            blocks.append([])
        blocks[-1].append(instruction)
    successors: dict[int, set[int]] = defaultdict(set)
    for n, block in enumerate(blocks):
        last = block[-1]
        if last.target is not None:
            successors[n].add(number[last.target])
        always = last.operation in ends and not last.predicate
        conditional_operand = re.match(r"!?U?P\d", last.arguments)
        if n + 1 < len(blocks) and (not always or conditional_operand):
            successors[n].add(n + 1)
    return blocks, successors


def reachable(start: set[int], edges: dict[int, set[int]]) -> set[int]:
    seen, waiting = set(start), list(start)
    while waiting:
        for n in edges[waiting.pop()] - seen:
            seen.add(n)
            waiting.append(n)
    return seen


def tool(name: str) -> str:
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    folders += [folder for base in sys.path for folder in Path(base).glob("nvidia/*/bin")]
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    if found := shutil.which(name):
        return found
    sys.exit(f"{name} is neither in $CUDA_HOME/bin, on PATH nor in a pip package nvidia-cuda-*")


def run(*command: str) -> str:
    path = os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ["PATH"]])
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, env=os.environ | {"PATH": path}
    ).stdout


def variants() -> dict[tuple[str, str], str]:
    """{(f, g): name} of the tables of csrc/math/variants.h, the first of those that share one."""
    text = (ROOT / "csrc/math/variants.h").read_text()
    rows = re.findall(r"X\((\w+), ([A-Z]\w+), ([A-Z]\w+)\)", text)
    return {(f, g): n for n, f, g in reversed(rows)}


def plain_variants() -> list[str]:
    """Those that have kernels without numbers too."""
    tables = (ROOT / "csrc/math/variants.h").read_text().split("#define ")
    plain = "".join(table for table in tables if table.startswith("FUSED_ACTS_PLAIN"))
    return re.findall(r"X\((\w+), \w+, \w+\)", plain)


def compile_source(source: Path, architecture: int, folder: str) -> Path:
    cubin = Path(folder) / f"{source.stem}.sm_{architecture}.cubin"
    toolchain = (ROOT / "fused_acts/_toolchain/cuda.py").read_text()
    (flags,) = re.findall(r"^FLAGS = (\[.*?\])", toolchain, re.M | re.S)
    flags = [*ast.literal_eval(flags), f"-I{ROOT / 'csrc'}", f"-arch=sm_{architecture}", "-cubin"]
    run(tool("nvcc"), *flags, "-o", str(cubin), str(source))
    return cubin


def read_kernels(cubin: Path, architecture: int) -> Iterator[AnyKernel]:
    name_of = variants()
    usage = {
        name: (int(registers), int(stack) + int(local), int(shared))
        for name, registers, stack, shared, local in re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
            run(tool("cuobjdump"), "-res-usage", str(cubin)),
        )
    }
    for text in run(tool("cuobjdump"), "-sass", str(cubin)).split("Function : ")[1:]:
        symbol = text.split()[0]
        code = [
            Instruction(int(address, 16), predicate or "", name, arguments)
            for address, predicate, name, arguments in re.findall(
                r"/\*([0-9a-f]{4,})\*/ +(@!?U?P\w+ +)?([A-Z][\w.]*) *(.*?) *;", text
            )
        ]
        any_kernel = architecture, code, *usage[symbol]
        if is_stub(code):
            continue
        if found := re.search(GENERAL_SYMBOL, symbol):
            direction, dtype = found.groups()
            access_bytes = SIZES[dtype_of(dtype)]
            direction = DIRECTIONS[int(direction)]
            yield GeneralKernel(*any_kernel, direction, dtype_of(dtype), access_bytes)
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


def is_stub(code: list[Instruction]) -> bool:
    """Of a kernel that another architecture has."""
    return not any(i.operation == "LDG" for i in code) and any("BPT" in i.name for i in code)


def functions_in(mangled: str) -> tuple[str, str]:
    names = re.findall(r"\d+([A-Z][A-Za-z0-9]*?)(?=E|NS)", mangled)
    return names[0], names[-1]


def dtype_of(mangled: str) -> str:
    return DTYPES[re.sub(r"^NS_(.*)E$", r"\1", mangled)]


def compile_kernels() -> tuple[list[Kernel], list[GeneralKernel], list[OtherKernel]]:
    """Every kernel for every architecture, in the order of the table of variants."""
    jobs = [(s, a) for s in sorted((ROOT / "csrc/cuda").rglob("*.cu")) for a in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(lambda job: compile_source(*job, folder), jobs))
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
    return kernels, general, [k for k in every if isinstance(k, OtherKernel)]
