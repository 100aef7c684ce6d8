"""What the compiler made of the CUDA kernels: registers, spills, accesses, instructions, occupancy.

    python tools/kernel_report.py [--write]

Compiles csrc/cuda/*.cu for each architecture and reads the machine code; no GPU is needed. Prints a
line for each kernel that serves aligned operands, and a summary of all. Exits with 1 if a kernel
spills or breaks its budget. --write puts the table into docs/kernels.md. Needs nvcc, and cuobjdump
and nvdisasm (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm).
"""

import argparse
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/kernels.md"
BEGIN, END = "<!-- kernel report: begin -->", "<!-- kernel report: end -->"

ARCHITECTURES = (80, 90, 100)
WIDEST = {80: 16, 90: 16, 100: 32}  # bytes of an access
SIZES = {"BFloat16": 2, "Float16": 2, "float": 4, "double": 8}
ACCESSES = ("element", "vector", "interleaved")

SYMBOL = r"(forward|backward)_kernelINS_4GateI(.*?)EENS0_6ConfigI(.*?)LNS0_6AccessE(\d)ELi(\d+)E"

# Instructions per element of 16-bit storage, gate and up in two halves of a row.
BUDGETS = {
    ("swiglu", "forward"): {80: 12.0, 90: 12.0, 100: 9.0},
    ("swiglu", "backward"): {80: 20.0, 90: 20.0, 100: 14.5},
    ("geglu_tanh", "forward"): {80: 14.0, 90: 14.0, 100: 10.5},
    ("geglu_tanh", "backward"): {80: 23.0, 90: 23.0, 100: 16.5},
    ("geglu", "forward"): {80: 20.0, 90: 20.0, 100: 14.0},
    ("geglu", "backward"): {80: 31.0, 90: 31.0, 100: 23.0},
}
BELOW_SWIGLU = ("glu", "bilinear", "reglu")

# Per multiprocessor.
WARPS, BLOCKS, REGISTERS = 64, 32, 65536
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
        for width in ("256", "128", "64", "U16"):
            if f".{width}" in self.name:
                return int(width.strip("U"))
        return 32


@dataclass
class Kernel:
    architecture: int
    direction: str
    variant: str
    dtype: str
    access: str
    access_bytes: int
    instructions: list[Instruction]
    registers: int
    stack: int

    @property
    def name(self) -> str:
        access = f"{self.access} {self.access_bytes}"
        return f"sm_{self.architecture} {self.variant} {self.direction} {self.dtype} {access}"

    @property
    def is_main(self) -> bool:
        """Whether it serves aligned operands with gate and up in two halves of a row."""
        return self.access == "vector" and self.access_bytes == WIDEST[self.architecture]

    @property
    def occupancy(self) -> float:
        registers_of_warp = -(-self.registers * 32 // 256) * 256
        warps = min(WARPS, REGISTERS // 4 // registers_of_warp * 4)
        return min(BLOCKS, warps // WARPS_OF_BLOCK) * WARPS_OF_BLOCK / WARPS

    def hot_path(self) -> list[Instruction]:
        """All that can run in a thread which gets to a store of the full width."""
        blocks, successors = basic_blocks(self.instructions)
        widest = max(i.access_bits for i in self.instructions if i.operation == "STG")
        is_store = lambda i: i.operation == "STG" and i.access_bits == widest  # noqa: E731
        stores = {n for n, block in enumerate(blocks) if any(map(is_store, block))}
        predecessors = defaultdict(set)
        for n, following in successors.items():
            for m in following:
                predecessors[m].add(n)
        hot = reachable(stores, predecessors) | reachable(stores, successors)
        return [i for n in sorted(hot & reachable({0}, successors)) for i in blocks[n]]

    def instructions_per_element(self) -> float:
        path = self.hot_path()
        stores = [i.access_bits // 8 for i in path if i.operation == "STG"]
        stored = sum(width for width in stores if width == max(stores))
        outputs = 2 if self.direction == "backward" else 1
        return len(path) / (stored / SIZES[self.dtype] / outputs)


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
    """{(f, g): name} as in the table of csrc/variants.h."""
    table = (ROOT / "csrc/variants.h").read_text()
    return {(f, g): name for name, f, g in re.findall(r"X\((\w+), (\w+), (\w+)\)", table)[1:]}


def compile_source(source: Path, architecture: int, folder: str) -> Path:
    cubin = Path(folder) / f"{source.stem}.sm_{architecture}.cubin"
    (flags,) = re.findall(r"^NVCC_FLAGS = (\[.*?\])", (ROOT / "setup.py").read_text(), re.M | re.S)
    flags = [*ast.literal_eval(flags), f"-I{ROOT / 'csrc'}", f"-arch=sm_{architecture}", "-cubin"]
    run(tool("nvcc"), *flags, "-o", str(cubin), str(source))
    return cubin


def read_kernels(cubin: Path, architecture: int) -> Iterator[Kernel]:
    name_of = variants()
    usage = {
        name: (int(registers), int(stack) + int(local))
        for name, registers, stack, local in re.findall(
            r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)",
            run(tool("cuobjdump"), "-res-usage", str(cubin)),
        )
    }
    for text in run(tool("cuobjdump"), "-sass", str(cubin)).split("Function : ")[1:]:
        symbol = text.split()[0]
        if not (found := re.search(SYMBOL, symbol)):
            continue
        direction, functions, dtype, access, access_bytes = found.groups()
        names = re.findall(r"\d+([A-Z][A-Za-z]*?)(?=E|NS)", functions)
        f, g = names[0], names[-1]
        code = [
            Instruction(int(address, 16), predicate or "", name, arguments)
            for address, predicate, name, arguments in re.findall(
                r"/\*([0-9a-f]{4,})\*/ +(@!?U?P\w+ +)?([A-Z][\w.]*) *(.*?) *;", text
            )
        ]
        registers, stack = usage[symbol]
        yield Kernel(
            architecture, direction, name_of[f, g],
            {"f": "float", "d": "double"}.get(dtype) or dtype.lstrip("NS_0123456789").rstrip("E"),
            ACCESSES[int(access)], int(access_bytes), code, registers, stack,
        )  # fmt: skip


def violations(kernels: list[Kernel]) -> Iterator[str]:
    costs = {
        (k.architecture, k.dtype, k.variant, k.direction): k.instructions_per_element()
        for k in kernels
        if k.is_main and SIZES[k.dtype] == 2
    }
    for k in kernels:
        spills = sum(i.operation in ("LDL", "STL") for i in k.instructions)
        if k.stack or spills:
            yield f"{k.name}: {k.stack} bytes of stack, {spills} accesses to local memory"
        key = (k.architecture, k.dtype, k.variant, k.direction)
        if key not in costs or not k.is_main:
            continue
        lowest = 0.62 if k.architecture >= 100 and k.direction == "backward" else 0.75
        if k.occupancy < lowest:
            yield f"{k.name}: occupancy {k.occupancy:.0%}, less than {lowest:.0%}"
        budget = BUDGETS.get((k.variant, k.direction), {}).get(k.architecture)
        if k.variant in BELOW_SWIGLU:
            budget = costs[k.architecture, k.dtype, "swiglu", k.direction]
        if budget and costs[key] > budget:
            yield f"{k.name}: {costs[key]:.2f} instructions per element, more than {budget:.2f}"


def table(kernels: list[Kernel]) -> Iterator[str]:
    yield "| kernel | dtype | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " |"
    yield "|---|---|" + "---|" * len(ARCHITECTURES)
    rows = defaultdict(dict)
    for k in kernels:
        if k.is_main:
            rows[k.variant, k.direction, k.dtype][k.architecture] = (
                f"{k.instructions_per_element():.2f}, {k.registers}, {k.occupancy:.0%}"
            )
    for (variant, direction, dtype), cells in rows.items():
        columns = " | ".join(cells[a] for a in ARCHITECTURES)
        yield f"| {variant} {direction} | {dtype.lower()} | {columns} |"
    yield ""
    for a in ARCHITECTURES:
        chosen = [k for k in kernels if k.architecture == a and k.access_bytes <= WIDEST[a]]
        widths = sorted({i.access_bits // 8 for k in chosen for i in k.instructions} - {0})
        code = 16 * sum(len(k.instructions) for k in chosen) // 1024
        yield (
            f"sm_{a}: {len(chosen)} kernels, {code} KiB of code, "
            f"at most {max(k.registers for k in chosen)} registers, "
            f"{sum(k.stack for k in chosen)} bytes of stack, accesses of {widths} bytes"
        )
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description="What the compiler made of the CUDA kernels.")
    parser.add_argument("--write", action="store_true", help="update the table in docs/kernels.md")
    options = parser.parse_args()
    jobs = [(s, a) for s in sorted((ROOT / "csrc/cuda").glob("*.cu")) for a in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(lambda job: compile_source(*job, folder), jobs))
        kernels = [
            k for cubin, (_, a) in zip(cubins, jobs, strict=True) for k in read_kernels(cubin, a)
        ]
    kernels.sort(key=lambda k: (list(variants().values()).index(k.variant), k.direction, k.dtype))
    lines = ["Instructions per element, registers of a thread, occupancy:", "", *table(kernels)]
    print(*lines, sep="\n")
    if options.write:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text("\n".join([before + BEGIN, "", *lines[:-1], END]) + after)
    found = list(violations(kernels))
    print(*found, f"{len(kernels)} kernels, {len(found)} violations", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
