"""Times gated_quantized of swiglu against what one writes with torch, the same compiled, and the
fused unit before the rest of it."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.table import Table
from rich.text import Text
from torch import Tensor

import fused_acts

from . import report
from .cases import DTYPES
from .competitors import COMPILED, EAGER, OURS
from .timing import Clock, buffer_sets, interleave, make_sampler

UNIT_ALONE = f"{OURS}, unit alone"
READING = """Times are medians of interleaved rounds, ratios those to the first line. Bytes: what an
element moves on a GPU at best, read and written: by one kernel, and by the unit and one behind it.
"""
Pair = tuple[Tensor, Tensor]  # values, scales
Function = Callable[[Tensor, Tensor], Pair]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


@dataclass(frozen=True)
class Format:
    columns: int  # that share a scale; 0: all
    value_bytes: float
    scale_bytes: int  # 0: the scale is given
    error: float  # acceptable, in the Euclidean norm

    def bytes(self, cols: int) -> float:
        """Written for an element."""
        return self.value_bytes + self.scale_bytes / (self.columns or cols)


FORMATS = {
    "fp8_tensor": Format(0, 1, 0, 0.04),
    "fp8_row": Format(0, 1, 4, 0.04),
    "int8_row": Format(0, 1, 4, 0.04),
    "fp8_block128": Format(128, 1, 4, 0.04),
    "mxfp8": Format(32, 1, 1, 0.04),
    "nvfp4": Format(16, 0.5, 1, 0.15),
}
GIVEN = {"fp8_tensor": 0.125, "nvfp4": 64.0}  # of numbers up to some 40


def written(name: str) -> Callable[[Tensor], Pair]:
    """As one writes it with torch: the largest magnitude, its scale, divided, cut and cast."""
    columns = FORMATS[name].columns

    def quantise(y: Tensor) -> Pair:
        if name == "fp8_tensor":
            return e4m3(y / GIVEN[name]), y.new_empty(0)
        y = y.unflatten(-1, (-1, columns or y.shape[-1]))
        a = y.abs().amax(-1, keepdim=True).float()
        if name == "nvfp4":
            stored = e4m3(a * (GIVEN[name] / 6))
            codes = e2m1(y * (GIVEN[name] / stored.float()))
            return (codes[..., ::2] | codes[..., 1::2] << 4).flatten(-2), stored.squeeze(-1)
        s = a / (127 if name == "int8_row" else 448)
        if name == "mxfp8":
            s = s.log2().ceil().exp2()
        values = int8(y / s) if name == "int8_row" else e4m3(y / s)
        stored = s.to(torch.float8_e8m0fnu) if name == "mxfp8" else s
        return values.flatten(-2), stored.squeeze(-1)

    return quantise


def e4m3(x: Tensor) -> Tensor:
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)


def int8(x: Tensor) -> Tensor:
    return x.round().clamp(-127, 127).to(torch.int8)


def e2m1(x: Tensor) -> Tensor:
    codes = torch.bucketize(x.abs(), torch.tensor(MIDPOINTS, device=x.device))
    return (codes + 8 * (x < 0)).to(torch.uint8)


def dequantised(name: str, pair: Pair) -> Tensor:
    values, scales = pair
    if name == "nvfp4":
        codes = torch.stack((values & 15, values >> 4), -1).flatten(-2).long()
        magnitudes = torch.tensor(E2M1, device=values.device)[codes & 7]
        y = torch.where(codes > 7, -magnitudes, magnitudes) / GIVEN[name]
    else:
        y = values.float() * GIVEN.get(name, 1.0)
    if not FORMATS[name].scale_bytes:
        return y
    return (y.unflatten(-1, (scales.shape[-1], -1)) * scales.float().unsqueeze(-1)).flatten(-2)


def make_contenders(name: str, device: torch.device, compiles: bool) -> dict[str, Function]:
    quantise = written(name)
    scale = torch.tensor(GIVEN[name], device=device) if name in GIVEN else None

    def composed(gate: Tensor, up: Tensor) -> Pair:
        return quantise(F.silu(gate) * up)

    def fused(gate: Tensor, up: Tensor) -> Pair:
        return fused_acts.gated_quantized(gate, up, format=name, scale=scale)

    contenders: dict[str, Function] = {
        EAGER: composed,
        UNIT_ALONE: lambda gate, up: quantise(fused_acts.swiglu(gate, up)),
        OURS: fused,
    }
    if compiles:
        torch._dynamo.reset()
        contenders[COMPILED] = torch.compile(composed, dynamic=False)
    return contenders


def check(name: str, contenders: dict[str, Function], gate: Tensor, up: Tensor) -> None:
    """Raises a RuntimeError where what comes back is not the unit in float64."""
    exact = fused_acts.reference.gated(gate.double(), up.double())
    for who, function in contenders.items():
        error = ((dequantised(name, function(gate, up)) - exact).norm() / exact.norm()).item()
        if not error <= FORMATS[name].error:
            raise RuntimeError(f"{who}, {name}, {gate.dtype}: off by {error:.1e}")


@dataclass(frozen=True)
class Time:
    format: str
    contender: str
    dtype: str
    tokens: int
    cols: int
    bytes_per_element: float | None  # that a GPU moves at best, of our kernels
    seconds: float
    ratio: float  # to the first contender
    rounds: int


def times(name: str, dtype: str, tokens: int, args: argparse.Namespace) -> Iterator[Time]:
    """Rounds in which everyone runs once."""
    size = DTYPES[dtype].itemsize
    copies = buffer_sets(3 * tokens * args.cols * size, args.device)
    shape = (tokens, args.cols)
    inputs = [
        [torch.randn(shape, device=args.device).to(DTYPES[dtype]) for _ in range(2)]
        for _ in range(copies)
    ]
    contenders = make_contenders(name, args.device, not (args.quick or args.no_compile))
    check(name, contenders, *(each[:16] for each in inputs[0]))

    def call(function: Function, gate: Tensor, up: Tensor) -> Callable[[], object]:
        return lambda: function(gate, up)

    samplers = {
        (who, "fresh"): make_sampler([call(function, *each) for each in inputs], args.device)
        for who, function in contenders.items()
    }
    seconds = args.seconds if args.seconds is not None else 0.1 if args.quick else 3
    timings = interleave(samplers, seconds, Clock(10 * seconds), 10**6)
    moved = 2 * size + FORMATS[name].bytes(args.cols)
    between = 2 * size  # the unit's result, there and back
    for label in samplers:
        yield Time(
            name,
            label[0],
            dtype,
            tokens,
            args.cols,
            {OURS: moved, UNIT_ALONE: moved + between}.get(label[0]),
            timings.seconds(label),
            timings.ratio(label, (EAGER, "fresh")),
            len(timings.samples[label]),
        )


def result_tables(results: Sequence[Time]) -> Iterator[Table]:
    """A table a format: a line a contender, a column for each dtype and number of tokens."""
    for name, group in report.grouped(results, lambda row: row.format):
        dtypes = list(dict.fromkeys(row.dtype for row in group))
        cases = dict.fromkeys(f"{row.dtype}\n{row.tokens} tokens" for row in group)
        columns = [*cases, *(f"bytes an\nelement, {dtype}" for dtype in dtypes)]
        table = report.plain_table(f"{name}: time, relative to it", ["", *columns])
        for who, line in report.grouped(group, lambda row: row.contender):
            cells: list[str | Text] = [report.styled_ratio(row.ratio) for row in line]
            if who == EAGER:
                cells = [report.format_time(row.seconds) for row in line]
            moved = {row.dtype: row.bytes_per_element for row in line}
            counts = (f"{count:.2f}" if (count := moved[each]) else "" for each in dtypes)
            table.add_row(who, *cells, *counts)
        yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="64 tokens, bf16, without torch.compile")
    option("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="(all)")
    option("--tokens", nargs="+", type=int, metavar="N", help="(192 3072; quick: 64)")
    option("--cols", type=int, default=11008, help="a multiple of 128 (11008)")
    option("--dtypes", nargs="+", choices=DTYPES, help="(bf16 fp32; quick: bf16)")
    option("--no-compile", action="store_true", help="without torch.compile")
    option("--seconds", type=float, metavar="S", help="for each case (3; quick: 0.1)")


def main(args: argparse.Namespace) -> int:
    console = report.console_of_machine(args.device)
    torch.manual_seed(args.seed)
    results: list[Time] = []
    with torch.no_grad():
        for name in args.formats:
            for dtype in args.dtypes or (["bf16"] if args.quick else ["bf16", "fp32"]):
                for tokens in args.tokens or ([64] if args.quick else [192, 3072]):
                    with console.status(f"{name}, {dtype}, {tokens} tokens"):
                        results += times(name, dtype, tokens, args)
            report.write_csv(args.output / "quantised.csv", results)  # a stopped run keeps these
    console.print(READING, style="italic")
    for table in result_tables(results):
        console.print(table)
    console.print(f"  written to {args.output}: quantised.csv")
    return 0
