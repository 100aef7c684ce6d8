"""What the compiler made of the CPU loops, against their budgets.

    python tools/cpu_report.py [--write]

Counts the instructions that the plain way through each loop takes for 16 elements, for every
instruction set of the built library, and exits with 1 if a loop spills registers or breaks its
budget. --write puts the counts into docs/cpu.md. Needs a build in build/ and objdump; no processor
with the instruction sets.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/cpu.md"

# Instructions for 16 elements of the calls without options.
BUDGETS = {
    ("Avx512Bf16", "BFloat16", "swiglu"): (19.0, 26.0),
    ("Avx512Bf16", "BFloat16", "geglu_tanh"): (20.0, 32.0),
    ("Avx512Bf16", "BFloat16", "geglu"): (30.0, 44.5),
    ("Avx512", "float", "swiglu"): (24.0, 35.0),
}
# Four registers in step are too many for long loops, which keep some in memory. That costs less
# than to wait for results, as two in step do, while it is a small part of the instructions. AVX2
# has half the registers, and loops that spill more.
MOST_SPILLED = 0.1
DIRECTIONS = ("forward", "backward", "double backward")
NONE, NUMBERS = 0, 2  # Options of math/unit.h
NAME = re.compile(
    r"GluLoop<(?P<isa>\w+), (?P<dtype>\w+), \w+, Unit<(?P<f>\w+), (?P<g>\w+)>, "
    r"\(Direction\)(?P<direction>\d), \(Options\)(?P<options>\d)>"
)
BYTES = {"x": 16, "y": 32, "z": 64}
SIZES = {"float": 4, "Float16": 2, "BFloat16": 2}
STORE = re.compile(r"v?mov\w* +%([xyz])mm\d+,(?!.*%[xyz]mm)")
# Of a loop over the first lanes: a store by a mask, or a test for whether it is all of them.
PART = re.compile(r"v?p?mov\w* +%.mm\d+,.*\(.*\{%k|cmp +\$0x(?:4|8|10|20),|call")
NARROWING_STORE = re.compile(r"(?:vcvtps2ph +\$\w+,|vpmovdw +)%([xyz])mm\d+,(?!.*%[xyz]mm)")


def rows_of_the_table() -> dict[tuple[str, str], str]:
    """{(f, g): the variant's name}; the first of those that share their functions."""
    rows: dict[tuple[str, str], str] = {}
    text = (ROOT / "csrc/math/variants.h").read_text()
    for name, f, g in re.findall(r"^  X\((\w+), +(\w+), +(\w+)\)", text, re.M):
        rows.setdefault((f, g), name)
    return rows


@dataclass
class Loop:
    """A function of one loop, and the parts of it without jumps."""

    isa: str
    dtype: str
    f: str
    g: str
    direction: int
    options: int
    addresses: list[int]
    instructions: list[str]

    @cached_property
    def _next(self) -> list[list[int]]:
        """Where each instruction may lead to."""
        places = {address: i for i, address in enumerate(self.addresses)}
        following = []
        for i, text in enumerate(self.instructions):
            jump = re.match(r"j(\w+) +([0-9a-f]+)", text)
            targets = [] if jump and jump[1] == "mp" or text.startswith("ret") else [i + 1]
            if jump and int(jump[2], 16) in places:
                targets.append(places[int(jump[2], 16)])
            following.append([t for t in targets if t < len(self.instructions)])
        return following

    def _way_round(self, head: int) -> list[int] | None:
        """The shortest way from an instruction back to it."""
        previous = {head: -1}
        front = [head]
        while front:
            reached = []
            for i in front:
                for target in self._next[i]:
                    if target == head:
                        way = [i]
                        while previous[way[-1]] >= 0:
                            way.append(previous[way[-1]])
                        return way[::-1]
                    if target not in previous:
                        previous[target] = i
                        reached.append(target)
            front = reached
        return None

    @cached_property
    def main(self) -> list[str]:
        """The way through the loop over whole registers: the shortest of those that store most."""
        heads = {t for i, targets in enumerate(self._next) for t in targets if t != i + 1}
        ways = [w for head in heads if (w := self._way_round(head))]
        loops = [[self.instructions[i] for i in way] for way in ways]
        whole = [w for w in loops if not any(map(PART.match, w)) and self._stores_registers(w)]
        most = max(map(self._stored, whole), default=0)
        if self.direction == 1:  # the product is stored as well, if it is asked for
            most = most * self._outputs // (self._outputs + 1)
        return min((w for w in whole if most and self._stored(w) >= most), key=len, default=[])

    def _stores_registers(self, way: list[str]) -> bool:
        """Not so what has a part as well, on its way around a loop within it."""
        elements = self._stored(way) // SIZES[self.dtype]
        return any(
            elements == n << k for n in (1, self._outputs, self._outputs + 1) for k in range(8)
        )

    @property
    def _outputs(self) -> int:
        return 2 if self.direction == 1 and self.g != "Unary" else 1

    @staticmethod
    def _stored(way: list[str]) -> int:
        kept = [t for t in way if "(%rsp" not in t and "(%rbp" not in t]
        whole = sum(BYTES[m[1]] for t in kept if (m := STORE.match(t)))
        return whole + sum(BYTES[m[1]] // 2 for t in kept if (m := NARROWING_STORE.match(t)))

    @property
    def spills(self) -> int:
        return sum(bool(STORE.match(t)) and ("(%rsp" in t or "(%rbp" in t) for t in self.main)

    @property
    def per_16(self) -> float:
        elements = self._stored(self.main) / SIZES[self.dtype] / self._outputs
        return len(self.main) / elements * 16


def functions(path: Path) -> Iterator[Loop]:
    command = ["objdump", "-d", "--no-show-raw-insn", "-C", str(path)]
    for text in subprocess.check_output(command, text=True).split("\n\n"):
        first, *lines = text.strip().splitlines() or [""]
        name = re.sub(r"fused_acts::|\(anonymous namespace\)::|cpu::", "", first)
        found = NAME.search(name)
        if not found or not first.endswith("(fused_acts::cpu::Block const&)>:"):
            continue
        parts = [line.split("\t", 1) for line in lines if "\t" in line]
        yield Loop(
            *(found[key] for key in ("isa", "dtype", "f", "g")),
            int(found["direction"]),
            int(found["options"]),
            [int(address.strip(" :"), 16) for address, _ in parts],
            [code.strip() for _, code in parts],
        )


def architecture(path: Path) -> bytes:
    return path.read_bytes()[18:20]  # e_machine of an ELF file


def built_loops() -> list[Loop]:
    objects: dict[str, Path] = {}  # the newest of each
    own = architecture(Path(sys.executable).resolve())
    for path in sorted(ROOT.glob("build/*/libfused_acts/csrc/cpu/loops_*.o")):
        if (
            "scalar" not in path.name
            and architecture(path) == own
            and (
                path.name not in objects
                or path.stat().st_mtime > objects[path.name].stat().st_mtime
            )
        ):
            objects[path.name] = path
    if not objects:
        sys.exit("tools/cpu_report.py: no loops in build/; build the package first")
    return [loop for path in objects.values() for loop in functions(path)]


def counts(loops: list[Loop]) -> dict[tuple[str, str, str], dict[int, float]]:
    """{(instruction set, dtype, variant): {direction: instructions for 16 elements}}"""
    result: dict[tuple[str, str, str], dict[int, float]] = {}
    names = rows_of_the_table()
    for loop in sorted(loops, key=lambda loop: -loop.options):
        if loop.options in (NONE, NUMBERS) and loop.direction < 2 and loop.main:
            key = loop.isa, loop.dtype, names[loop.f, loop.g]
            result.setdefault(key, {})[loop.direction] = loop.per_16
    return result


def violations(loops: list[Loop]) -> Iterator[str]:
    names = rows_of_the_table()
    for loop in loops:
        if loop.spills > MOST_SPILLED * len(loop.main) and loop.isa != "Avx2":
            yield (
                f"{loop.isa} {loop.dtype} {names[loop.f, loop.g]} {DIRECTIONS[loop.direction]} "
                f"(options {loop.options}): {loop.spills} of {len(loop.main)} instructions spill"
            )
    found = counts(loops)
    for key, budget in BUDGETS.items():
        for direction, most in enumerate(budget):
            if key in found and found[key][direction] > most:
                yield f"{' '.join(key)} {DIRECTIONS[direction]}: {found[key][direction]} > {most}"


def table(loops: list[Loop]) -> str:
    found = counts(loops)
    columns = sorted({key[:2] for key in found})
    lines = [
        "| | " + " | ".join(f"{isa} {dtype.lower()}" for isa, dtype in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in rows_of_the_table().values():
        cells = []
        for isa, dtype in columns:
            cell = found.get((isa, dtype, name), {})
            cells.append(" / ".join(f"{cell[d]:.1f}" if d in cell else "-" for d in (0, 1)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="into docs/cpu.md")
    args = parser.parse_args()
    loops = built_loops()
    text = table(loops)
    print(text)
    if args.write:
        begin, end = "<!-- counted: begin -->", "<!-- counted: end -->"
        before, _, rest = DOCUMENT.read_text().partition(begin)
        after = rest.partition(end)[2]
        DOCUMENT.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    broken = list(violations(loops))
    print(*broken, f"{len(loops)} loops, {len(broken)} violations", sep="\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
