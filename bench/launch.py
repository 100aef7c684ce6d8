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

TINY = (1, 64)  # tokens, d_ff
DECODE = (24, 11008)
COMPILED = ((1, 14336), (16, 14336), (256, 14336), (4096, 2816))
Function = Callable[..., Tensor]
DTYPES = (torch.bfloat16, torch.float32)
# Relative to what one writes with torch. Under torch.compile, the form that is the default is to be
# no slower, and a call with out= no slower than the same without.
AT_MOST = {"no grad": 1.2, "grad": 1.25, "out": 1.0, "compiled": 1.05}


@dataclass(frozen=True)
class Cost:
    what: str
    kind: str  # a key of AT_MOST, or "" for what is compared with
    tokens: int
    d_ff: int
    dtype: str
    seconds: float
    relative: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case (3)")


def forward_backward(function: Function, *tensors: Tensor | None) -> Call:
    """A training step's share: the call and the gradients by all its tensors."""
    leaves = [t if t is None else t.clone().requires_grad_() for t in tensors]
    wanted = [leaf for leaf in leaves if leaf is not None]

    def run() -> object:
        with torch.enable_grad():
            return torch.autograd.grad(function(*leaves), wanted, grad_out)

    grad_out = torch.ones_like(function(*tensors))
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


def pairs(shape: tuple[int, int], device: torch.device) -> dict[str, tuple[str, Call, Call]]:
    """{what: (kind, ours, what one writes with torch)}"""
    gate, up, out, product = (torch.randn(shape, device=device) for _ in range(4))
    gate_bias, up_bias = torch.randn(2, shape[1], device=device)
    slope = torch.nn.LeakyReLU(), fused_acts.nn.LeakyReLU()
    operator = torch.ops.fused_acts.glu_forward.default._op
    swiglu = fused_acts.variants().index("swiglu")

    def swish(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def limited(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    def with_beta(gate: Tensor, up: Tensor) -> Tensor:
        return gate * torch.sigmoid(1.5 * gate) * up

    def biased(gate: Tensor, up: Tensor, gate_bias: Tensor, up_bias: Tensor) -> Tensor:
        return F.silu(gate + gate_bias) * (up + up_bias)

    def fused_biased(gate: Tensor, up: Tensor, gate_bias: Tensor, up_bias: Tensor) -> Tensor:
        return fused_acts.swiglu(gate, up, gate_bias=gate_bias, up_bias=up_bias)

    def swish_out(gate: Tensor, up: Tensor) -> Tensor:
        return torch.mul(torch.ops.aten.silu.out(gate, out=product), up, out=out)

    fused, x, biases = fused_acts.swiglu, gate, (gate_bias, up_bias)
    fresh = partial(fused, gate, up)
    return {
        "the bare operator": ("", partial(operator, gate, up, swiglu, 0), partial(swish, gate, up)),
        "swiglu": ("no grad", fresh, partial(swish, gate, up)),
        "swiglu, limit=7.0": (
            "no grad",
            partial(fused, gate, up, limit=7.0),
            partial(limited, gate, up),
        ),
        "swiglu, beta=1.5": (
            "no grad",
            partial(fused, gate, up, beta=1.5),
            partial(with_beta, gate, up),
        ),
        "swiglu, two biases": (
            "no grad",
            partial(fused_biased, gate, up, *biases),
            partial(biased, gate, up, *biases),
        ),
        "swiglu, out=": (
            "no grad",
            partial(fused, gate, up, out=out),
            partial(swish_out, gate, up),
        ),
        "swiglu, out= to without": ("out", partial(fused, gate, up, out=out), fresh),
        "gelu": ("no grad", partial(fused_acts.gelu, x), partial(F.gelu, x)),
        "relu": ("no grad", partial(fused_acts.relu, x), partial(torch.relu, x)),
        "nn.LeakyReLU": ("no grad", partial(slope[1], x), partial(slope[0], x)),
        "swiglu, forward and backward": (
            "grad",
            forward_backward(fused, gate, up),
            forward_backward(swish, gate, up),
        ),
        "swiglu, two biases, forward and backward": (
            "grad",
            forward_backward(fused_biased, gate, up, *biases),
            forward_backward(biased, gate, up, *biases),
        ),
    }


def compiled_swiglu(
    shape: tuple[int, int], device: torch.device
) -> dict[str, tuple[str, Call, Call]]:
    gate, up = (torch.randn(shape, device=device) for _ in range(2))
    torch._dynamo.reset()
    return {
        "compiled swiglu": (
            "no grad",
            compiled(kernel, "kernel", gate, up),
            compiled(expression, "kernel", gate, up),
        )
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
    calls: Mapping[Label, Call], base: Label, device: torch.device, seconds: float
) -> Iterator[tuple[Label, float, float]]:
    with torch.no_grad():
        samplers = {label: make_sampler([call], device) for label, call in calls.items()}
        timings = interleave(samplers, seconds, Clock(10 * seconds), 10**6)
    for label in calls:
        yield label, timings.seconds(label), timings.ratio(label, base)


def costs(device: torch.device, seconds: float) -> Iterator[Cost]:
    for shape in (TINY, DECODE):
        cases = pairs(shape, device) | (compiled_swiglu(shape, device) if shape == TINY else {})
        for what, (kind, ours, theirs) in cases.items():
            calls = {("ours", ""): ours, ("torch", ""): theirs}
            label, time, relative = next(measured(calls, ("torch", ""), device, seconds))
            yield Cost(
                what,
                kind if shape == TINY or kind == "out" else "",
                *shape,
                "float32",
                time,
                relative,
            )
    for tokens, d_ff in COMPILED:
        for dtype in DTYPES:
            calls = compiled_calls(tokens, d_ff, dtype, device)
            for (name, _), time, relative in measured(calls, next(iter(calls)), device, seconds):
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
