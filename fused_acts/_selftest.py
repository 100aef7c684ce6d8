"""Whether an installation computes what it should, in some seconds: every function and its
gradients, in every type, on each device, against the oracle in float64; and one speed."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from fused_acts import functional, reference, row_units
from fused_acts._library import BUILD
from fused_acts.tables import ACTIVATIONS, VARIANTS, Activation, Variant

ROWS, COLS = 37, 130  # odd, and no multiple of a vector
PIECES = 5
# Of an element, relative to its size plus the mean size: sums over rows are off by some eps.
TOLERANCES = {
    torch.float64: 1e-11,
    torch.float32: 1e-5,
    torch.float16: 2.0**-8,
    torch.bfloat16: 2.0**-5,
}
SPEED_ROWS, SPEED_COLS = {"cpu": 1024, "cuda": 8192}, 4096
SPEED_ROUNDS, SPEED_CALLS = 5, 3
SHOWN = 10  # failures


@dataclass(frozen=True)
class Check:
    """A call, as the library and as the oracle make it of the same tensors."""

    name: str
    call: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    tensors: Sequence[Tensor]  # float64, on the CPU

    def results(
        self, call: Callable[..., Tensor], tensors: Sequence[Tensor], dtype: torch.dtype
    ) -> list[Tensor]:
        """[out, the gradient by each tensor] of a loss that weighs each element differently.

        By weights that are numbers of the dtype.
        """
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = call(*leaves)
        grad_out = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.to(dtype).to(out))]

    def failure(self, dtype: torch.dtype, device: torch.device) -> str | None:
        tensors = [tensor.to(dtype) for tensor in self.tensors]
        try:
            found = self.results(self.call, [tensor.to(device) for tensor in tensors], dtype)
            found = [tensor.cpu().double() for tensor in found]
        except Exception as error:  # whatever a broken installation may raise
            return f"{type(error).__name__}: {error}"
        exact = self.results(self.oracle, [tensor.double() for tensor in tensors], dtype)
        names = ["result", *(f"gradient {number}" for number in range(1, len(exact)))]
        for name, own, right in zip(names, found, exact, strict=True):
            off, size = (own - right).abs(), right.abs() + right.abs().mean()
            if not (off <= TOLERANCES[dtype] * size).all():  # nor NaN
                return f"{name} is off by {(off / size).max().item():.1e}"
        return None


def checks() -> Iterator[Check]:
    """Each unit and activation plain and with all it may add, maxout and units of rows."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def parameter(row: Variant | Activation) -> dict[str, Tensor]:
        return {name: value + normal(COLS).abs() / 4 for name, value in row.parameters.items()}

    for name, variant in VARIANTS.items():
        gated = {"variant": name}
        both = normal(ROWS, COLS) * 2, normal(ROWS, COLS)
        yield make_check(name, functional.gated, reference.gated, both, gated)
        options = {"bias": normal(2 * COLS), **parameter(variant)}
        packed = (normal(ROWS, 2 * COLS),)
        yield make_check(name, functional.gated, reference.gated, packed, gated, options)
    for name, activation in ACTIVATIONS.items():
        alone, x = {"name": name}, (normal(ROWS, COLS) * 2,)
        yield make_check(name, functional.activation, reference.activation, x, alone)
        options = {"bias": normal(COLS), **parameter(activation)}
        yield make_check(name, functional.activation, reference.activation, x, alone, options)
    # No two of a row are equal, in any type, so that the largest is one.
    ranks = torch.rand(ROWS, COLS, generator=generator).argsort(-1).double() - COLS / 2
    pieces = {"pieces": PIECES}
    yield make_check("maxout", functional.maxout, reference.maxout, (ranks,), pieces)
    rows = normal(ROWS, COLS), normal(ROWS, COLS)
    yield make_check("softmax_glu", functional.softmax_glu, reference.softmax_glu, rows, {})
    sizes_of = {"rms_norm_gated": (COLS,), "polynorm_glu": (3, 1), "topk_geglu": ()}
    for name, sizes in sizes_of.items():
        inputs = (*rows, *(normal(size) for size in sizes))
        # With most of a row cut off, what is left is small beside the rounding of the cut.
        fixed = {"sparsity": 0.3} if name == "topk_geglu" else {}
        yield make_check(name, getattr(row_units, name), getattr(reference, name), inputs, fixed)


def make_check(
    name: str,
    call: Callable[..., Tensor],
    oracle: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    fixed: Mapping[str, Any],
    options: Mapping[str, Tensor] | None = None,
) -> Check:
    """Of call(*inputs, **fixed, **options), which is differentiated by inputs and options."""
    names = list(options or {})

    def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def with_options(*tensors: Tensor) -> Tensor:
            given = dict(zip(names, tensors[len(inputs) :], strict=True))
            return function(*tensors[: len(inputs)], **fixed, **given)

        return with_options

    what = f"{name} with {' and '.join(names)}" if names else name
    return Check(what, of(call), of(oracle), [*inputs, *(options or {}).values()])


def speed(device: torch.device) -> str:
    """The median of interleaved rounds, ours and what one writes with torch."""
    shape = SPEED_ROWS[device.type], SPEED_COLS
    gate, up = (torch.randn(shape, device=device).bfloat16() for _ in range(2))
    given = {"gate": gate, "up": up, "fused": functional.gated, "silu": F.silu}
    timers = [
        Timer(code, globals=given, num_threads=torch.get_num_threads())
        for code in ("fused(gate, up)", "silu(gate) * up")
    ]
    with torch.no_grad():
        rounds = [[t.timeit(SPEED_CALLS).mean for t in timers] for _ in range(SPEED_ROUNDS)]
    own, eager = (statistics.median(times) for times in zip(*rounds, strict=True))
    size = " x ".join(map(str, shape))
    return f"swiglu {size} bfloat16: {1e3 * own:.3g} ms, {own / eager:.2f} of eager's time"


def devices() -> list[torch.device]:
    gpus = range(torch.cuda.device_count())
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in gpus)]


def describe(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--device", choices=["cpu", "cuda"], help="only this, or all of them")
    option("--no-speed", action="store_true", help="only values and gradients")


def run(args: argparse.Namespace) -> int:
    """A line a device, and below it what is wrong there; returns 1 if anything is."""
    chosen = [device for device in devices() if args.device in (None, device.type)]
    if not chosen:
        print("no GPU that torch can use")
    wrong = not chosen
    for device in chosen:
        if device.type == "cuda" and not BUILD["cuda_version"]:
            print(f"{describe(device)}: left out, for this build has no CUDA kernels")
            wrong |= args.device is not None
            continue
        start = time.perf_counter()
        found = {
            f"{check.name}, {str(dtype).removeprefix('torch.')}": check.failure(dtype, device)
            for check in checks()
            for dtype in TOLERANCES
        }
        seconds = time.perf_counter() - start
        failures = [f"  {name}: {text}" for name, text in found.items() if text]
        verdict = f"{len(failures)} of {len(found)} calls WRONG" if failures else "right"
        line = f"{describe(device)}: {len(found)} calls with gradients, {verdict}, {seconds:.1f} s"
        print(line if failures or args.no_speed else f"{line}; {speed(device)}", flush=True)
        print("".join(f"{failure}\n" for failure in failures[:SHOWN]), end="")
        if len(failures) > SHOWN:
            print(f"  and {len(failures) - SHOWN} more")
        wrong |= bool(failures)
    return int(wrong)
