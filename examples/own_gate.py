"""Defines three gates from papers that the library lacks, says how close they are to float64, times
them beside eager torch and torch.compile, and trains the language model of train_lm.py with one.

    python examples/own_gate.py            # 5 to 10 minutes on 2 cores
    python examples/own_gate.py --quick    # 2 minutes; most of it is compilers
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from language_model import Size
from torch import Tensor
from train_lm import add_arguments, compare, train

import fused_acts

DTYPES = (torch.float32, torch.bfloat16)


def smish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


def serf(x: Tensor) -> Tensor:
    return x * torch.erf(F.softplus(x, threshold=40.0))  # torch's own is x itself above 20


def isrlu(x: Tensor, alpha: float | Tensor) -> Tensor:
    below = x.clamp(min=-1e9)
    return torch.where(x >= 0, x, below * torch.rsqrt(1 + alpha * below * below))


def define_gates(verbose: bool | None = None) -> dict[str, Callable[..., Tensor]]:
    """{the function in torch: the unit that is compiled of its expression}"""
    return {
        # Wang, Ren and Wang 2022, Electronics 11(4), 540
        "smish_glu": fused_acts.define(
            "smish_glu", "x * tanh(log1p(sigmoid(x)))", reference=smish, verbose=verbose
        ),
        # Nag and Bhattacharyya 2021, https://arxiv.org/abs/2108.09598
        "serf_glu": fused_acts.define(
            "serf_glu", "x * erf(softplus(x))", reference=serf, verbose=verbose
        ),
        # Carlile et al. 2017, https://arxiv.org/abs/1710.09967. Its alpha can be learned. From
        # -1e9 on it is flat; a square beyond that is soon no float.
        "isrlu_glu": fused_acts.define(
            "isrlu_glu",
            f_source="""
                auto below = max(x, -1e9);
                return select(x >= 0.0, x, below * rsqrt(1.0 + alpha * below * below));
            """,
            parameters={"alpha": 1.0},
            reference=isrlu,
            verbose=verbose,
        ),
    }


EAGER = {
    "smish_glu": lambda gate, up: smish(gate) * up,
    "serf_glu": lambda gate, up: serf(gate) * up,
    "isrlu_glu": lambda gate, up: isrlu(gate, 1.0) * up,
}


def error(out: Tensor, exact: Tensor) -> float:
    """The largest, as a part of the result's own size."""
    return ((out.double() - exact).abs() / exact.abs().clamp(min=1e-3)).max().item()


def check(units: dict[str, Callable[..., Tensor]]) -> None:
    print("largest relative error: fused, eager")
    for name, unit in units.items():
        for dtype in DTYPES:
            gate, up = (torch.randn(256, 1024).mul(3).to(dtype) for _ in range(2))
            exact = EAGER[name](gate.double(), up.double())
            ours, eagers = (error(f(gate, up), exact) for f in (unit, EAGER[name]))
            print(f"  {name:<10} {str(dtype):<15} {ours:.1e}  {eagers:.1e}")


def with_backward(function: Callable[..., Tensor]) -> Callable[..., object]:
    def call(gate: Tensor, up: Tensor) -> object:
        return torch.autograd.grad(function(gate, up), (gate, up), torch.ones_like(gate))

    return call


def interleaved(
    functions: Sequence[Callable[..., object]], tensors: Sequence[Tensor], repeats: int
) -> list[float]:
    """Medians in ms; each function in turn, so that a busy moment is no one's disadvantage."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 2):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function(*tensors)
            times.append(time.perf_counter() - start)
    return [1e3 * statistics.median(times[2:]) for times in seconds]


def measure(
    units: dict[str, Callable[..., Tensor]],
    dtypes: Sequence[torch.dtype],
    rows: int,
    repeats: int,
) -> None:
    print(f"ms for {rows} x 2816 on {torch.get_num_threads()} threads: fused, compiled, eager")
    for name, unit in units.items():
        functions = unit, torch.compile(EAGER[name]), EAGER[name]
        for dtype in dtypes:
            tensors = [torch.randn(rows, 2816, dtype=dtype, requires_grad=True) for _ in range(2)]
            with torch.no_grad():
                forward = interleaved(functions, tensors, repeats)
            both = interleaved([*map(with_backward, functions)], tensors, repeats)
            for what, times in (("forward", forward), ("and backward", both)):
                numbers = "  ".join(f"{ms:7.2f}" for ms in times)
                print(f"  {name:<10} {str(dtype):<15} {what:<13} {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--variant", choices=[*EAGER], default="smish_glu", help="to train with")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser, Size(), steps=200)
    args = parser.parse_args()
    args.log_every = 50
    if args.quick:
        args.size = Size(width=64, d_ff=176, layers=2, length=64)
        args.steps, args.validation, args.log_every = 30, 5, 10
    if args.threads:
        torch.set_num_threads(args.threads)

    start = time.perf_counter()
    units = define_gates()
    print(f"defined {', '.join(units)} in {time.perf_counter() - start:.1f} s")
    check(units)
    measure(units, *((DTYPES[:1], 64, 10) if args.quick else (DTYPES, 1024, 30)))
    runs = train(["eager", "fused"], args)
    for kind, run in runs.items():
        print(f"{kind}: validation loss {run.validation_loss:.4f}")
    compare(**runs)


if __name__ == "__main__":
    main()
