"""What the compiler made of the CUDA kernels, against their budgets.

    python tools/kernel_report.py [--write]

Prints registers, occupancy and instructions of each kernel that serves aligned operands, how near
it comes to the memory's bandwidth in a model of the chips, and a summary of all kernels. Exits with
1 if a kernel spills or breaks its budget. --write puts all that into docs/kernels.md, its rows
among other libraries' kernels too, and the picture beside it. Needs nvcc, cuobjdump, nvdisasm and
matplotlib; no GPU.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import quantized_kernels
import roofline
from cuda_kernels import (
    GATED,
    ROWS,
    UNARY,
    GeneralKernel,
    Kernel,
    KernelOfUnits,
    OtherKernel,
    compile_kernels,
)
from machine_code import ARCHITECTURES, ROOT
from tables import markdown, write_block, write_own_rows
from variants import plain_variants, variants

DOCUMENT = ROOT / "docs/kernels.md"
PICTURE = ROOT / "docs/roofline.svg"

SIXTEEN_BIT = ("bfloat16", "float16")

# Instructions per element of 16-bit storage, gate and up in two halves of a row. Two a thread of
# those on sm_90 are of programmatic dependent launch.
BUDGETS = {
    ("swiglu", "forward"): {80: 12.0, 90: 12.2, 100: 9.0},
    ("swiglu", "backward"): {80: 20.0, 90: 20.0, 100: 14.5},
    ("geglu_tanh", "forward"): {80: 14.0, 90: 14.2, 100: 10.5},
    ("geglu_tanh", "backward"): {80: 23.0, 90: 23.0, 100: 16.5},
    ("geglu", "forward"): {80: 20.0, 90: 20.2, 100: 14.0},
    ("geglu", "backward"): {80: 31.0, 90: 31.0, 100: 23.0},
}
# Occupancies of the kernels for row weights and experts, of the longest unit in them.
ROUTED = {"forward": 0.75, "backward": 0.56}
BELOW_SWIGLU = ("glu", "bilinear", "reglu")
# Of which calls with numbers and with biases are shown; the summary is of all.
SHOWN = ("swiglu", "geglu", "geglu_tanh", "swiglu_oai")
# Kernels that memory may wait for in the model, which counts the accesses of both layouts in them.
MOST_BUSY = {(100, "rows", "geglu", "backward"): 1.10}
# Units whose backward pass with numbers has more values alive than 48 registers hold: occupancies.
MANY_VALUES = {"situ_glu": 0.43, "xielu": 0.43, "softplus_glu": 0.56, "softplus": 0.56}


def spills(kernels: Sequence[KernelOfUnits | OtherKernel]) -> Iterator[str]:
    for k in kernels:
        local = sum(i.operation in ("LDL", "STL") for i in k.instructions)
        if k.stack or local:
            yield f"{k.name}: {k.stack} bytes of stack, {local} accesses to local memory"


def violations_of_routed(kernels: Sequence[GeneralKernel]) -> Iterator[str]:
    found = [k for k in kernels if k.access_bytes == 16]
    wanted = len(ARCHITECTURES) * len(ROUTED) * 3
    if len(found) != wanted:
        yield f"{len(found)} kernels for row weights and experts, not {wanted}"
    for k in found:
        if k.occupancy < ROUTED[k.direction]:
            yield f"{k.name}: occupancy {k.occupancy:.0%}, less than {ROUTED[k.direction]:.0%}"


def missing(kernels: Sequence[Kernel]) -> Iterator[str]:
    found = {
        (k.architecture, k.dtype, k.options, k.variant, k.direction) for k in kernels if k.is_wide
    }
    for (_, g), variant in variants().items():
        directions = list(UNARY if g == "Unary" else GATED)
        wanted = list(product(["rows"], directions[:2]))
        if variant in plain_variants():
            wanted += product(["plain"], directions)
        if g != "Unary" or variant not in plain_variants():
            wanted += product(["numbers"], directions[:2])
        for architecture, dtype, (options, direction) in product(
            ARCHITECTURES, SIXTEEN_BIT, wanted
        ):
            if (architecture, dtype, options, variant, direction) not in found:
                yield f"sm_{architecture} {options} {variant} {direction} {dtype}: not found"


def lowest_occupancy(k: Kernel) -> float:
    """By registers, of which a kernel needs more where many values are alive, and by sums."""
    if k.options != "plain" and k.direction == "backward":
        return MANY_VALUES.get(k.variant, 0.56 if k.options == "learned" else 0.62)
    wide = k.architecture >= 100 and (k.direction == "backward" or k.options == "rows")
    return 0.62 if wide or "product" in k.direction else 0.75


def violations(kernels: Sequence[Kernel]) -> Iterator[str]:
    yield from missing(kernels)
    costs = {
        (k.architecture, k.dtype, k.variant, k.direction): k.per_element()
        for k in kernels
        if k.is_main and k.dtype in SIXTEEN_BIT
    }
    for k in kernels:
        if k.dtype not in SIXTEEN_BIT:
            continue
        lowest = lowest_occupancy(k)
        if k.occupancy < lowest:
            yield f"{k.name}: occupancy {k.occupancy:.0%}, less than {lowest:.0%}"
        if not k.is_wide or k.options == "learned":
            continue
        if k.options != "plain" and k.variant not in SHOWN:
            continue
        unit, busy = roofline.second(k)
        if busy > MOST_BUSY.get((k.architecture, k.options, k.variant, k.direction), 1):
            yield f"{k.name}: {unit} takes {busy:.2f} times as long as memory"
        if not k.is_main:
            continue
        cost = k.per_element()
        budget = BUDGETS.get((k.variant, k.direction), {}).get(k.architecture)
        if budget and cost > budget:
            yield f"{k.name}: {cost:.2f} instructions per element, more than {budget:.2f}"
        swiglu = costs.get((k.architecture, k.dtype, "swiglu", k.direction), cost)
        if k.variant in BELOW_SWIGLU and cost >= swiglu:
            yield f"{k.name}: {cost:.2f} instructions per element, not below swiglu's {swiglu:.2f}"


def rows_of(kernels: Sequence[Kernel], dtypes: Sequence[str]) -> dict[str, list[list[Kernel]]]:
    """{variant and direction: by architecture, the main kernels of these types}"""
    rows: dict[str, list[list[Kernel]]] = defaultdict(lambda: [[] for _ in ARCHITECTURES])
    for k in kernels:
        if k.is_main and k.dtype in dtypes:
            rows[f"{k.variant} {k.direction}"][ARCHITECTURES.index(k.architecture)].append(k)
    return rows


def counts(kernels: Sequence[Kernel]) -> str:
    """Of one kernel, or the worst of a few."""
    instructions = max(k.per_element() for k in kernels)
    registers = max(k.registers for k in kernels)
    return f"{instructions:.2f} · {registers} · {min(k.occupancy for k in kernels):.0%}"


def counted(kernels: Sequence[Kernel]) -> Iterator[str]:
    head = [f"sm_{a}" for a in ARCHITECTURES]
    yield "bfloat16 and float16, the larger count where they differ:"
    yield ""
    rows = rows_of(kernels, SIXTEEN_BIT)
    special = {
        name: f"{max(k.per_element('MUFU') for cell in cells for k in cell):.0f}"
        for name, cells in rows.items()
    }
    table = {name: [special[name], *map(counts, cells)] for name, cells in rows.items()}
    yield from markdown(["kernel", "special functions", *head], table)
    yield ""
    table = {
        name: list(map(counts, cells)) for name, cells in rows_of(kernels, ["float32"]).items()
    }
    yield from markdown(["float32", *head], table)
    yield ""
    for a in ARCHITECTURES:
        chosen = [k for k in kernels if k.architecture == a]
        widths = sorted({i.access_bits // 8 for k in chosen for i in k.instructions} - {0})
        code = 16 * sum(len(k.instructions) for k in chosen) // 1024
        yield (
            f"- sm_{a}: {len(chosen)} kernels, {code} KiB of code, "
            f"at most {max(k.registers for k in chosen)} registers, "
            f"{sum(k.stack for k in chosen)} bytes of stack, "
            f"accesses of {', '.join(map(str, widths))} bytes"
        )


def busiest(kernels: Sequence[Kernel]) -> str:
    unit, busy = max(map(roofline.second, kernels), key=lambda item: item[1])
    return f"{busy:.0%} {unit}"


def with_options(kernels: Sequence[Kernel]) -> Iterator[str]:
    head = ["bfloat16, float16", *(f"sm_{a}" for a in ARCHITECTURES)]
    head += [f"busiest, {roofline.CHIPS[a].name}" for a in ARCHITECTURES]
    wide = [k for k in kernels if k.is_wide and k.dtype in SIXTEEN_BIT and k.options != "plain"]
    table = {}
    for options, variant, direction in product(("numbers", "rows"), SHOWN, ("forward", "backward")):
        cells = [
            [
                k
                for k in wide
                if (k.options, k.variant, k.direction, k.architecture)
                == (options, variant, direction, a)
            ]
            for a in ARCHITECTURES
        ]
        title = f"{variant} {direction}, {'numbers' if options == 'numbers' else 'biases'}"
        table[title] = [*map(counts, cells), *map(busiest, cells)]
    yield from markdown(head, table)
    yield ""
    for dtypes, options in product((SIXTEEN_BIT, ["float32"]), ("numbers", *ROWS)):
        chosen = [k for k in kernels if k.is_wide and k.dtype in dtypes and k.options == options]
        slow = {}
        for k in sorted(chosen, key=roofline.attainable, reverse=True):
            if (share := roofline.attainable(k)) < 1:
                slow[f"{k.variant} {k.direction} on {roofline.CHIPS[k.architecture].name}"] = share
        worst = ", ".join(f"{name} {share:.0%}" for name, share in list(slow.items())[:-7:-1])
        yield (
            f"- {', '.join(dtypes)}, {options}, {len(chosen)} kernels: the model lets all reach "
            f"the memory's bandwidth{f', but {len(slow)}, at the worst {worst}' if slow else ''}."
        )


def shared_by_all(kernels: Sequence[GeneralKernel]) -> Iterator[str]:
    rows: dict[str, list[str]] = defaultdict(list)
    for k in kernels:
        name = f"{k.direction} {k.dtype}, {k.access_bytes} bytes"
        rows[name].append(f"{k.registers} · {k.occupancy:.0%} · {k.kilobytes:.0f}")
    yield from markdown(["kernel", *(f"sm_{a}" for a in ARCHITECTURES)], rows)


def of_other_sources(kernels: Sequence[OtherKernel]) -> Iterator[str]:
    rows: dict[str, list[list[OtherKernel]]] = defaultdict(lambda: [[] for _ in ARCHITECTURES])
    for k in kernels:
        rows[f"`{k.source}.cu`"][ARCHITECTURES.index(k.architecture)].append(k)
    cell = lambda group: f"{len(group)} · {max(k.registers for k in group)}"  # noqa: E731
    table = {name: [cell(group) for group in cells if group] for name, cells in rows.items()}
    yield from markdown(["source", *(f"sm_{a}" for a in ARCHITECTURES)], table)


def modelled(kernels: Sequence[Kernel]) -> Iterator[str]:
    head = [roofline.CHIPS[a].name for a in ARCHITECTURES]
    rows = rows_of(kernels, SIXTEEN_BIT)
    table = {name: list(map(busiest, cells)) for name, cells in rows.items()}
    yield from markdown(["bfloat16, float16", *head], table)
    yield ""
    main, narrower = [], {}
    for k in sorted(kernels, key=roofline.attainable):
        share, chip = roofline.attainable(k), roofline.CHIPS[k.architecture].name
        if share < 1 and k.is_main:
            main.append(f"{k.dtype} {k.variant} {k.direction} on {chip} {share:.0%}")
        elif share < 1 and k.dtype in SIXTEEN_BIT and k.options == "plain":
            narrower.setdefault(f"{k.access} {k.access_bytes} on {chip}", f"{share:.0%}")
    yield f"- Share of the bandwidth: 100%, but {', '.join(main) or 'for none'}."
    yield (
        "- 16-bit kernels of narrower accesses (bytes), the slowest of each: 100%, but "
        f"{', '.join(map(' '.join, narrower.items())) or 'for none'}."
    )


def write(document: Path, blocks: dict[str, list[str]]) -> None:
    text = document.read_text()
    for name, lines in blocks.items():
        text = write_block(text, name, lines)
    document.write_text(write_own_rows(text, len(ARCHITECTURES)))


def main() -> None:
    parser = argparse.ArgumentParser(description="What the compiler made of the CUDA kernels.")
    parser.add_argument("--write", action="store_true", help="update docs/kernels.md")
    options = parser.parse_args()
    kernels, general, quantized, others = compile_kernels()
    of_formats = quantized_kernels.count_formats()
    blocks = {
        "counted": list(counted(kernels)),
        "options": list(with_options(kernels)),
        "general": list(shared_by_all(general)),
        "quantised": list(quantized_kernels.tables(quantized, of_formats)),
        "others": list(of_other_sources(others)),
        "modelled": list(modelled(kernels)),
    }
    for name, lines in blocks.items():
        print(name.capitalize(), "", *lines, "", sep="\n")
    if options.write:
        write(DOCUMENT, blocks)
        roofline.draw(kernels, PICTURE)
    every = [*kernels, *general, *quantized, *others]
    found = [
        *violations(kernels),
        *violations_of_routed(general),
        *quantized_kernels.violations(quantized, of_formats),
        *spills(every),
    ]
    print(*found, f"{len(every)} kernels, {len(found)} violations", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
