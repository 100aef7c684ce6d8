"""Times activations alone, with a bias and a parameter where torch needs more than one kernel for
them, maxout and softmax_glu, against torch's own functions: forward, and forward with backward,
fresh outputs."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from . import report
from .cases import DTYPES
from .competitors import EAGER, OURS
from .expressions import EXPRESSIONS, QUICK, Expression
from .machine import usable_cpus
from .timing import Call, Clock, Label, interleave, make_sampler

# Relative errors in the Euclidean norm that are acceptable: of torch's own roundings in eps of the
# dtype, and of its sums of thousands of rows and its float32 functions.
ROUNDINGS, ARITHMETIC = 4.0, 1e-4
SLOWEST = 1 / 0.95  # of what torch has one kernel for
TORCH_LABEL: Label = (EAGER, "fresh")
OWN_LABEL: Label = (OURS, "fresh")


@dataclass(frozen=True)
class Time:
    expression: str
    kernels: int
    direction: str
    threads: int
    dtype: str
    rows: int
    cols: int
    tensor_bytes: int
    torch_seconds: float
    own_seconds: float
    ratio: float  # of our time to torch's, the median over rounds
    rounds: int


def make_calls(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_out: Tensor
) -> dict[str, Call]:
    def forward() -> Tensor:
        with torch.no_grad():
            return function(*tensors)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*tensors), tensors, grad_out)

    return {"forward": forward, "forward+backward": both}


def make_tensors(
    expression: Expression, rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor]:
    """[x, *others] and grad_out; x is a little narrower where pieces do not divide cols."""
    pieces = expression.numbers.get("pieces", 1)
    groups = cols // pieces
    whole = (rows, groups * pieces)
    shapes = [whole, *(whole if name in ("up", "z") else (cols,) for name in expression.others)]
    tensors = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    return tensors, torch.randn(rows, groups, device=device).to(dtype)


def distinct(like: Tensor) -> Tensor:
    """[-4, 4) in each row in some order, no number twice, so that no two are the largest."""
    return torch.rand(like.shape, device=like.device).argsort(-1) * (8 / 256) - 4


def check(
    expression: Expression, tensors: Sequence[Tensor], grad_out: Tensor, result: Sequence[Tensor]
) -> None:
    """Raises a RuntimeError where the result is not that of the formula in float64."""
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out = expression.exact(*wide)
    exact = (out.detach(), *torch.autograd.grad(out, wide, grad_out.double()))
    for own, right in zip(result, exact, strict=True):
        error = ((own.double() - right).norm() / right.norm()).item()
        if not error <= ROUNDINGS * torch.finfo(own.dtype).eps + ARITHMETIC:
            raise RuntimeError(f"{expression.text}, {own.dtype}: off by {error:.1e}")


def times(
    expression: Expression, dtype: str, rows: int, cols: int, threads: int, args: argparse.Namespace
) -> Iterator[Time]:
    tensors, grad_out = make_tensors(expression, rows, cols, DTYPES[dtype], args.device)
    calls = {
        TORCH_LABEL: make_calls(expression.function, tensors, grad_out),
        OWN_LABEL: make_calls(expression.fused, tensors, grad_out),
    }
    for direction in ("forward", "forward+backward"):
        samplers = {
            label: make_sampler([each[direction]], args.device) for label, each in calls.items()
        }
        timings = interleave(samplers, args.seconds, Clock(10 * args.seconds), 10**6)
        yield Time(
            expression.text,
            expression.kernels,
            direction,
            threads,
            dtype,
            rows,
            cols,
            rows * cols * tensors[0].element_size(),
            timings.seconds(TORCH_LABEL),
            timings.seconds(OWN_LABEL),
            timings.ratio(OWN_LABEL, TORCH_LABEL),
            len(timings.samples[OWN_LABEL]),
        )


def result_tables(results: Sequence[Time]) -> Iterator[Table]:
    for (direction, threads), group in report.grouped(results, lambda r: (r.direction, r.threads)):
        columns = list(dict.fromkeys((r.dtype, r.tensor_bytes) for r in group))
        table = report.plain_table(
            f"Time relative to torch, {direction}, {threads} thread{'s' * (threads > 1)}",
            ["torch", "kernels", *(f"{d}\n{report.format_bytes(size)}" for d, size in columns)],
        )
        for (text, kernels), line in report.grouped(group, lambda r: (r.expression, r.kernels)):
            ratios = {(r.dtype, r.tensor_bytes): report.styled_ratio(r.ratio) for r in line}
            cells: list[str | Text] = [ratios.get(column, "-") for column in columns]
            table.add_row(text, str(kernels), *cells)
        yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="seven expressions, bf16 and fp32, one thread")
    option("--dtypes", nargs="+", choices=DTYPES, help="(all; quick: bf16 fp32)")
    option("--rows", nargs="+", type=int, metavar="N", help="(16 4096; quick: 16 512)")
    option("--cols", type=int, default=14336, help="(14336)")
    option("--only", nargs="+", metavar="NAME", help="functions by name, such as gelu")
    option("--seconds", type=float, default=0.3, metavar="S", help="for each time (0.3)")


def main(args: argparse.Namespace) -> int:
    console = report.console_of_machine(args.device)
    torch.manual_seed(args.seed)
    dtypes = args.dtypes or (["bf16", "fp32"] if args.quick else list(DTYPES))
    sizes = args.rows or ([16, 512] if args.quick else [16, 4096])
    one = bool(args.threads) or args.quick or args.device.type == "cuda" or usable_cpus() < 2
    counts = [args.threads or 1] if one else [1, 2]
    chosen = [e for e in EXPRESSIONS if not args.quick or e.text in QUICK]
    chosen = [e for e in chosen if not args.only or e.name in args.only]
    for expression in chosen:
        for dtype in dtypes:
            tensors, grad_out = make_tensors(expression, 64, 256, DTYPES[dtype], args.device)
            tensors[0].detach().copy_(distinct(tensors[0]))
            for function in (expression.fused, expression.function):
                each = make_calls(function, tensors, grad_out)
                out, grads = each["forward"](), each["forward+backward"]()
                check(expression, tensors, grad_out, [out, *grads])  # type: ignore[list-item]
    results: list[Time] = []
    for threads in counts:
        torch.set_num_threads(threads)
        for expression in chosen:
            with console.status(f"{expression.text}, {threads} threads"):
                for dtype in dtypes:
                    for rows in sizes:
                        results += times(expression, dtype, rows, args.cols, threads, args)
            report.write_csv(args.output / "activations.csv", results)  # a stopped run keeps these
    for table in result_tables(results):
        console.print(table)
    slow = [r for r in results if r.kernels == 1 and r.ratio > SLOWEST]
    alone = sum(r.kernels == 1 for r in results)
    console.print(f"  slower than 0.95 of torch where torch has one kernel: {len(slow)} of {alone}")
    console.print(f"  written to {args.output}: activations.csv")
    return 0
