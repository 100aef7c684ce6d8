"""Compiles CUDA sources and reads the machine code, and the ways through it; no GPU is needed.

Needs nvcc, and cuobjdump and nvdisasm (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm).
"""

import ast
import heapq
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ARCHITECTURES = (80, 90, 100)


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
    def calls(self) -> bool:
        return self.operation == "CALL" and not self.predicate

    @property
    def branches(self) -> bool:
        """Also by a call with a predicate, which does not come back."""
        return self.operation == "BRA" or (self.operation == "CALL" and not self.calls)

    @property
    def target(self) -> int | None:
        found = re.findall(r"0x[0-9a-f]+", self.arguments)
        return int(found[-1], 16) if self.branches and found else None

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


Blocks = list[list[Instruction]]
Successors = dict[int, set[int]]


def basic_blocks(instructions: list[Instruction]) -> tuple[Blocks, Successors]:
    ends = lambda i: i.branches or i.operation == "EXIT"  # noqa: E731
    starts = {0, *(i.address + 16 for i in instructions if ends(i))}
    starts |= {i.target for i in instructions if i.target is not None}
    blocks: Blocks = []
    number = {}
    for instruction in instructions:
        if instruction.address in starts:
            number[instruction.address] = len(blocks)
            blocks.append([])
        blocks[-1].append(instruction)
    successors: Successors = defaultdict(set)
    for n, block in enumerate(blocks):
        last = block[-1]
        if last.target is not None:
            successors[n].add(number[last.target])
        always = ends(last) and not last.predicate and ".DIV" not in last.name
        conditional_operand = re.match(r"!?U?P\d", last.arguments)
        if n + 1 < len(blocks) and (not always or conditional_operand):
            successors[n].add(n + 1)
    return blocks, successors


def reachable(start: set[int], edges: Successors) -> set[int]:
    seen, waiting = set(start), list(start)
    while waiting:
        for n in edges[waiting.pop()] - seen:
            seen.add(n)
            waiting.append(n)
    return seen


def shortest_way(blocks: Blocks, successors: Successors, stops: Iterable[Collection[int]]) -> int:
    """Instructions from the first one to an exit by a block of each stop, in their order.

    Without calls, which are for divisions by extreme numbers.
    """
    reached = {0: 0}  # {block: instructions before it}
    before: Collection[int] = ()
    for stop in (*stops, [n for n, block in enumerate(blocks) if block[-1].operation == "EXIT"]):
        waiting = [(count, n) for n, count in reached.items()]
        if stop == before:  # once more
            waiting = [(count + len(blocks[n]), m) for count, n in waiting for m in successors[n]]
        heapq.heapify(waiting)
        reached, before = {}, stop
        while waiting:
            count, n = heapq.heappop(waiting)
            if n not in reached:
                reached[n] = count
                for following in () if any(i.calls for i in blocks[n]) else successors[n]:
                    heapq.heappush(waiting, (count + len(blocks[n]), following))
        reached = {n: count for n, count in reached.items() if n in stop}
    return min(count + len(blocks[n]) for n, count in reached.items())


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


def compile_source(source: Path, architecture: int, cubin: Path, *options: str) -> Path:
    toolchain = (ROOT / "fused_acts/_toolchain/cuda.py").read_text()
    (flags,) = re.findall(r"^FLAGS = (\[.*?\])", toolchain, re.M | re.S)
    flags = [*ast.literal_eval(flags), *options, f"-I{ROOT / 'csrc'}"]
    run(tool("nvcc"), *flags, f"-arch=sm_{architecture}", "-cubin", "-o", str(cubin), str(source))
    return cubin


def read_code(cubin: Path, architecture: int) -> Iterator[tuple[str, AnyKernel]]:
    """The kernels and their symbols, but none of another architecture."""
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
        if not is_stub(code):
            yield symbol, AnyKernel(architecture, code, *usage[symbol])


def is_stub(code: list[Instruction]) -> bool:
    """Of a kernel that another architecture has."""
    return not any(i.operation == "LDG" for i in code) and any("BPT" in i.name for i in code)
