"""Times units that are defined by an expression against the same units of the table, eager PyTorch
and torch.compile: forward, and forward with backward, fresh outputs."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from rich.table import Table
from rich.text import Text
from torch import Tensor

import fused_acts

from . import report
from .activations import make_calls
from .cases import DTYPES
from .competitors import COMPILED, EAGER, OURS
from .timing import Call, Clock, Label, interleave, make_sampler

OWN = "by define"
FRESH = "fresh"


@dataclass(frozen=True)
class Expression:
    """f of a row of the table, written anew. Parameters are learned, a number for each column."""

    table: str
    f: str
    reference: Callable[..., Tensor]
    parameters: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_gated(self) -> bool:
        return self.table in fused_acts.variants()

    def define(self) -> Callable[..., Tensor]:
        function: Callable[..., Tensor] = fused_acts.define(
            f"anew_{self.table}",
            self.f,
            g="identity" if self.is_gated else None,
            parameters=self.parameters,
            reference=self.reference,
        )
        return function


EXPRESSIONS = (
    Expression("swiglu", "x * sigmoid(x)", F.silu),
    Expression("geglu", "x * normal_cdf(x)", F.gelu),
    Expression("mish", "x * tanh(softplus(x))", F.mish),
    Expression(
        "elu_glu",
        "select(x > 0, x, alpha * expm1(x))",
        lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(x)),
        {"alpha": 1.0},
    ),
    Expression(
        "situ_glu",
        "4 * tanh(x / 4) * sigmoid(x)",
        lambda x: 4 * torch.tanh(x / 4) * torch.sigmoid(x),
    ),
)
QUICK = EXPRESSIONS[:1]


@dataclass(frozen=True)
class Time:
    unit: str
    expression: str
    direction: str
    dtype: str
    rows: int
    cols: int
    seconds: float
    ratio_to_table: float
    ratio_to_eager: float
    ratio_to_compiled: float
    rounds: int


def contenders(expression: Expression) -> dict[str, Callable[..., Tensor]]:
    """Functions of gate and up, or x, and the parameters."""
    count = 2 if expression.is_gated else 1

    def fused(function: Callable[..., Tensor], **options: None) -> Callable[..., Tensor]:
        def call(*tensors: Tensor) -> Tensor:
            learned = dict(zip(expression.parameters, tensors[count:], strict=True))
            return function(*tensors[:count], **learned, **options)

        return call

    def eager(*tensors: Tensor) -> Tensor:
        out = expression.reference(tensors[0], *tensors[count:])
        return out * tensors[1] if expression.is_gated else out

    options = {"linear_beta": None} if expression.table == "situ_glu" else {}
    torch._dynamo.reset()
    return {
        OWN: fused(expression.define()),
        OURS: fused(getattr(fused_acts, expression.table), **options),
        EAGER: eager,
        COMPILED: torch.compile(eager, dynamic=True, fullgraph=True),
    }


def make_tensors(
    expression: Expression, rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    tensors = [torch.randn(rows, cols) for _ in range(1 + expression.is_gated)]
    tensors += [torch.full((cols,), value) for value in expression.parameters.values()]
    return [tensor.to(device, dtype).requires_grad_() for tensor in tensors]


def check(
    functions: dict[str, Callable[..., Tensor]], tensors: Sequence[Tensor], dtype: torch.dtype
) -> None:
    """Raises a RuntimeError where a result differs from that of the table by more than rounding."""
    right = functions[OURS](*tensors).double()
    for name, function in functions.items():
        error = (function(*tensors).double() - right).norm() / right.norm()
        if not error <= 4 * torch.finfo(dtype).eps:
            raise RuntimeError(f"{name}, {dtype}: off by {error:.1e}")


def times(
    expression: Expression, dtype: str, rows: int, args: argparse.Namespace
) -> Iterator[Time]:
    functions = contenders(expression)
    check(functions, make_tensors(expression, 64, 256, DTYPES[dtype], args.device), DTYPES[dtype])
    tensors = make_tensors(expression, rows, args.cols, DTYPES[dtype], args.device)
    grad_out = torch.randn_like(tensors[0])
    calls: dict[Label, dict[str, Call]] = {
        (name, FRESH): make_calls(function, tensors, grad_out)
        for name, function in functions.items()
    }
    for direction in ("forward", "forward+backward"):
        samplers = {
            label: make_sampler([each[direction]], args.device) for label, each in calls.items()
        }
        timings = interleave(samplers, args.seconds, Clock(10 * args.seconds), 10**6)
        own, *others = ((name, FRESH) for name in (OWN, OURS, EAGER, COMPILED))
        yield Time(
            expression.table,
            expression.f,
            direction,
            dtype,
            rows,
            args.cols,
            timings.seconds(own),
            *(timings.ratio(own, other) for other in others),
            len(timings.samples[own]),
        )


def result_tables(results: Sequence[Time]) -> Iterator[Table]:
    """A line an expression: time relative to the table's own, eager and compiled."""
    for (direction, dtype), group in report.grouped(results, lambda r: (r.direction, r.dtype)):
        rows = list(dict.fromkeys(r.rows for r in group))
        table = report.plain_table(
            f"Time relative to the table's own, eager and torch.compile: {direction}, {dtype}",
            ["f", "unit", *(f"{n} x {group[0].cols}" for n in rows)],
        )
        for (text, unit), line in report.grouped(group, lambda r: (r.expression, r.unit)):
            cells: list[str | Text] = [
                " ".join(
                    f"{ratio:.2f}"
                    for ratio in (r.ratio_to_table, r.ratio_to_eager, r.ratio_to_compiled)
                )
                for r in line
            ]
            table.add_row(text, unit, *cells)
        yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="one expression, bf16")
    option("--dtypes", nargs="+", choices=DTYPES, help="(bf16 fp32; quick: bf16)")
    option("--rows", nargs="+", type=int, metavar="N", help="(24 1024; quick: 24 512)")
    option("--cols", type=int, default=14336, help="(14336)")
    option("--seconds", type=float, default=1.0, metavar="S", help="for each time (1)")


def main(args: argparse.Namespace) -> int:
    console = report.console_of_machine(args.device)
    torch.manual_seed(args.seed)
    results: list[Time] = []
    for expression in QUICK if args.quick else EXPRESSIONS:
        for dtype in args.dtypes or (["bf16"] if args.quick else ["bf16", "fp32"]):
            for rows in args.rows or ([24, 512] if args.quick else [24, 1024]):
                with console.status(f"{expression.f}, {dtype}, {rows} rows"):
                    results += times(expression, dtype, rows, args)
    report.write_csv(args.output / "own.csv", results)
    for table in result_tables(results):
        console.print(table)
    console.print(f"  written to {args.output}: own.csv")
    return 0
