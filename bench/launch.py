"""What a call costs beside its kernel: tiny tensors, and code that torch.compile made. Times are
relative to eager PyTorch, and under torch.compile to the compiled eager expression."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_acts

from . import report
from .machine import describe
from .timing import Call, Clock, Label, interleave, make_sampler

TINY = (1, 16)  # tokens, d_ff
COMPILED = ((1, 14336), (16, 14336), (256, 14336), (4096, 2816))
Function = Callable[[Tensor, Tensor], Tensor]
DTYPES = (torch.bfloat16, torch.float32)
# Relative to eager. Under torch.compile, the form that is the default is to be no slower.
AT_MOST = {"no grad": 1.3, "grad": 2.0, "compiled": 1.05}


@dataclass(frozen=True)
class Cost:
    what: str
    kind: str  # a key of AT_MOST, or ""
    tokens: int
    d_ff: int
    dtype: str
    seconds: float
    relative: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case (3)")


def eager(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def with_grad(call: Call) -> Call:
    def run() -> object:
        with torch.enable_grad():
            return call()

    return run


# A function each, since code that torch.compile made belongs to a function, whatever it calls.
def expression(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def kernel(gate: Tensor, up: Tensor) -> Tensor:
    return fused_acts.swiglu(gate, up)


def inductor(gate: Tensor, up: Tensor) -> Tensor:
    return fused_acts.swiglu(gate, up)


def compiled(function: Function, form: str, *tensors: Tensor) -> Call:
    """A call of what torch.compile made of the function while `form` was set, as it is then too."""
    code = torch.compile(function, fullgraph=True)

    def call() -> object:
        fused_acts.compile_as(form)
        return code(*tensors)

    return call


def tiny_calls(device: torch.device) -> dict[Label, Call]:
    gate, up = (torch.randn(TINY, device=device) for _ in range(2))
    leaves = [tensor.clone().requires_grad_() for tensor in (gate, up)]
    operator = torch.ops.fused_acts.glu_forward.default._op
    swiglu = fused_acts.variants().index("swiglu")
    torch._dynamo.reset()
    return {
        ("eager", "no grad"): partial(eager, gate, up),
        ("the bare operator", "no grad"): partial(operator, gate, up, swiglu, 0),
        ("fused_acts.swiglu", "no grad"): partial(fused_acts.swiglu, gate, up),
        ("eager", "grad"): with_grad(partial(eager, *leaves)),
        ("fused_acts.swiglu", "grad"): with_grad(partial(fused_acts.swiglu, *leaves)),
        ("compiled eager", "no grad"): compiled(expression, "kernel", gate, up),
        ("compiled fused_acts.swiglu", "no grad"): compiled(kernel, "kernel", gate, up),
    }


def compiled_calls(
    tokens: int, d_ff: int, dtype: torch.dtype, device: torch.device
) -> dict[Label, Call]:
    gate, up = (torch.randn(tokens, d_ff, device=device).to(dtype) for _ in range(2))
    torch._dynamo.reset()
    return {
        ("compiled eager", "no grad"): compiled(expression, "kernel", gate, up),
        ("kernel", "no grad"): compiled(kernel, "kernel", gate, up),
        ("inductor", "no grad"): compiled(inductor, "inductor", gate, up),
    }


def measured(
    calls: Mapping[Label, Call], device: torch.device, seconds: float
) -> Iterator[tuple[Label, float, float]]:
    with torch.no_grad():
        samplers = {label: make_sampler([call], device) for label, call in calls.items()}
        timings = interleave(samplers, seconds, Clock(10 * seconds), 10**6)
    for label in calls:
        base = next(other for other in calls if other[1] == label[1])
        yield label, timings.seconds(label), timings.ratio(label, base)


def costs(device: torch.device, seconds: float) -> Iterator[Cost]:
    for (name, mode), time, relative in measured(tiny_calls(device), device, seconds):
        kind = mode if name == "fused_acts.swiglu" else ""
        yield Cost(f"{name}, {mode}", kind, *TINY, "float32", time, relative)
    for tokens, d_ff in COMPILED:
        for dtype in DTYPES:
            calls = compiled_calls(tokens, d_ff, dtype, device)
            for (name, _), time, relative in measured(calls, device, seconds):
                kind = "compiled" if name == "kernel" else ""
                name = name if name == "compiled eager" else f'compile_as("{name}")'
                dtype_name = str(dtype).removeprefix("torch.")
                yield Cost(name, kind, tokens, d_ff, dtype_name, time, relative)
    fused_acts.compile_as("kernel")


def main(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    console = report.make_console()
    console.print(f"{describe(args.device)}")
    columns = ("call", "tokens x d_ff", "dtype", "time", "relative", "at most")
    table = report.plain_table("Cost of a call", columns, left=3)
    rows = list(costs(args.device, args.seconds))
    for cost in rows:
        at_most = AT_MOST.get(cost.kind)
        table.add_row(
            cost.what,
            f"{cost.tokens} x {cost.d_ff}",
            cost.dtype,
            report.format_time(cost.seconds),
            report.styled_ratio(cost.relative),
            "" if at_most is None else f"{at_most}",
        )
    console.print(table)
    path = args.output / "launch.json"
    path.write_text(json.dumps([asdict(cost) for cost in rows], indent=1))
    console.print(f"Written to {path}")
    return 0
