"""What `bench targets` measures: the cells of each line of its table, by name."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_acts
from fused_acts.nn import GatedFFN

from . import activations, blocks, launch
from .bandwidth import limit_samplers
from .cases import DTYPES
from .competitors import EAGER, OURS, Form, eager
from .expressions import EXPRESSIONS
from .footprint import saved_bytes
from .timing import Call, Clock, Label, interleave, make_sampler

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
BUILT_FROM = ("csrc", "build_backend", "fused_acts", "setup.py", "pyproject.toml", "README.md")
ROUNDINGS, ARITHMETIC = 8.0, 1e-4  # of relative errors that are acceptable, see activations.py

Cells = Iterator[tuple[str, float]]  # (name, value)
Measure = Callable[[float], Cells]  # of the seconds for each cell


def check(ours: Any, theirs: Any) -> None:
    """Raises a RuntimeError where two calls do not compute the same."""
    pairs = [(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True)
    for own, other in pairs:
        error = ((own.double() - other.double()).norm() / other.double().norm()).item()
        if not error <= ROUNDINGS * torch.finfo(own.dtype).eps + ARITHMETIC:
            raise RuntimeError(f"off by {error:.1e} from what it is compared with")


def ratio(ours: Call, theirs: Call, seconds: float, checked: bool = True) -> float:
    """The median over rounds of our time by theirs."""
    if checked:
        check(ours(), theirs())
    samplers = {(OURS, ""): make_sampler([ours], CPU), (EAGER, ""): make_sampler([theirs], CPU)}
    timings = interleave(samplers, seconds, Clock(20 * seconds), 10**6)
    return timings.ratio((OURS, ""), (EAGER, ""))


def operands(rows: int, cols: int, dtype: torch.dtype, count: int = 2) -> list[Tensor]:
    return [torch.randn(rows, cols).to(dtype) for _ in range(count)]


def name_of(dtype: torch.dtype) -> str:
    return next(name for name, each in DTYPES.items() if each == dtype)


def unit(variant: str, dtype: torch.dtype, gate: Tensor, up: Tensor) -> tuple[Call, Call]:
    """Ours with the output given, eager with a fresh one."""
    function, out = getattr(fused_acts, variant), torch.zeros_like(gate)
    composed = eager(Form(variant, "separate", dtype, CPU)).fresh
    return partial(function, gate, up, out=out), partial(composed, gate, up)


def units(
    variants: Sequence[str], dtypes: Sequence[torch.dtype], tokens: int, widths: Sequence[int]
) -> Measure:
    def measure(seconds: float) -> Cells:
        for dtype in dtypes:
            for d_ff in widths:
                gate, up = operands(tokens, d_ff, dtype)
                for variant in variants:
                    calls = unit(variant, dtype, gate, up)
                    yield f"{variant} {name_of(dtype)} {d_ff}", ratio(*calls, seconds)

    return measure


def bandwidth(tokens: int, d_ff: int) -> Measure:
    """Time over that of reading two such tensors and writing one, by the better of two ways."""

    def measure(seconds: float) -> Cells:
        for dtype in (torch.bfloat16, torch.float32):
            gate, up = operands(tokens, d_ff, dtype)
            for variant in ("swiglu", "reglu"):
                call, _ = unit(variant, dtype, gate, up)
                flat = gate.view(-1), up.view(-1), torch.zeros_like(gate).view(-1)
                samplers = {(OURS, ""): make_sampler([call], CPU), **limit_samplers([flat])}
                timings = interleave(samplers, seconds, Clock(20 * seconds), 10**6)
                limit = min((each for each in samplers if each[0] != OURS), key=timings.seconds)
                yield f"{variant} {name_of(dtype)}", timings.ratio((OURS, ""), limit)

    return measure


def layouts(variant: str, tokens: int, d_ff: int) -> Measure:
    """A unit of an interleaved tensor over swiglu of one with gate in the first half."""

    def measure(seconds: float) -> Cells:
        for dtype in (torch.bfloat16, torch.float32):
            (x,), (out,) = operands(tokens, 2 * d_ff, dtype, 1), operands(tokens, d_ff, dtype, 1)
            function = getattr(fused_acts, variant)
            ours = partial(function, x, layout="interleaved", out=out)
            theirs = partial(fused_acts.swiglu, x, out=out)
            yield name_of(dtype), ratio(ours, theirs, seconds, checked=False)

    return measure


def packed_rows(widths: Sequence[int], elements: int) -> Measure:
    def measure(seconds: float) -> Cells:
        composed = eager(Form("swiglu", "gate_up", torch.bfloat16, CPU)).fresh
        for cols in widths:
            rows = elements // cols
            (x,), (out,) = (operands(rows, width, torch.bfloat16, 1) for width in (2 * cols, cols))
            ours = partial(fused_acts.swiglu, x, out=out)
            yield f"{cols} columns", ratio(ours, partial(composed, x), seconds)

    return measure


def small_calls(kind: str, names: Sequence[str]) -> Measure:
    """Of launch.py, with 1 and 2 threads."""

    def measure(seconds: float) -> Cells:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for name, (its_kind, ours, theirs) in launch.pairs(launch.TINY, CPU).items():
                if its_kind == kind and name in names:
                    with torch.no_grad():  # those with gradients turn them on
                        yield f"{name}, {threads} threads", ratio(ours, theirs, seconds)

    return measure


def bias_gradients(tokens: int, d_ff: int) -> Measure:
    """Forward and backward; gradients by gate, up and bias."""

    def fused(gate: Tensor, up: Tensor, bias: Tensor) -> Tensor:
        return fused_acts.swiglu(gate, up, gate_bias=bias)

    def composed(gate: Tensor, up: Tensor, bias: Tensor) -> Tensor:
        return F.silu(gate + bias) * up

    def measure(seconds: float) -> Cells:
        for dtype in (torch.bfloat16, torch.float32):
            tensors = *operands(tokens, d_ff, dtype), torch.randn(d_ff).to(dtype)
            calls = [launch.forward_backward(each, *tensors) for each in (fused, composed)]
            yield name_of(dtype), ratio(calls[0], calls[1], seconds, checked=False)

    return measure


def slow_activations(chosen: int | None) -> Measure:
    """1 for each cell that is slower than torch's one kernel allows, 0 for the others."""

    def measure(seconds: float) -> Cells:
        args = argparse.Namespace(device=CPU, seconds=seconds)
        alone = [each for each in EXPRESSIONS if each.kernels == 1][:chosen]
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for expression in alone:
                for dtype in DTYPES:
                    for time_ in activations.times(expression, dtype, 16, 14336, threads, args):
                        where = f"{time_.expression} {dtype} {time_.direction}, {threads} threads"
                        slow = time_.ratio > activations.SLOWEST
                        yield f"{where}: {time_.ratio:.2f}", float(slow)

    return measure


def small_blocks(d_model: int, d_ff: int, packings: Sequence[bool]) -> Measure:
    """GatedFFN without gradients over the LLaMA MLP in eager PyTorch, of the same weights."""

    def limited(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    def composed(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def measure(seconds: float) -> Cells:
        kinds = product((torch.bfloat16, torch.float32), ("plain", "biases", "limit"), packings)
        for dtype, kind, packed in kinds:
            options: dict[str, Any] = {"limit": 7.0} if kind == "limit" else {}
            shape = (d_model, d_ff, "swiglu", kind == "biases")
            eager_ffn = GatedFFN(*shape, packed=False, dtype=dtype)
            own = GatedFFN(*shape, packed=packed, dtype=dtype, **options)
            # Where they can be the same weights they are in the caches for both.
            own.load_state_dict(eager_ffn.state_dict(keep_vars=True), assign=not packed)
            expression = limited if kind == "limit" else composed
            for tokens in (1, 8):
                x = torch.randn(tokens, d_model).to(dtype)
                theirs = partial(blocks.llama, expression, eager_ffn, x)
                with torch.no_grad():
                    value = ratio(partial(own, x), theirs, seconds)
                where = "packed" if packed else "separate"
                yield f"{name_of(dtype)} {kind}, {tokens} tokens, {where}", value

    return measure


def block_calls(
    dtype: torch.dtype, tokens: int, d_model: int, d_ff: int
) -> tuple[dict[str, blocks.Block], Tensor, Tensor]:
    form = Form("swiglu", "separate", dtype, CPU)
    built = {each.name: each for each in blocks.build_blocks(form, d_model, d_ff, False)}
    x, grad_y = operands(tokens, d_model, dtype)
    return built, x.requires_grad_(), grad_y


def large_blocks(levels: Sequence[str], training: bool, tokens: int) -> Measure:
    """GatedFFN over the eager LLaMA MLP, all levels in the same rounds."""

    def measure(seconds: float) -> Cells:
        built, x, grad_y = block_calls(torch.bfloat16, tokens, 1024, 2816)
        names = [EAGER, *(f"{OURS}, separate, {level}" for level in levels)]
        samplers = {}
        for name in names:
            call = built[name].training(x, grad_y) if training else built[name].inference(x)
            samplers[(name, "")] = make_sampler([call], CPU)
        timings = interleave(samplers, len(names) * seconds, Clock(60 * seconds), 10**6)
        for name, level in zip(names[1:], levels, strict=True):
            label: Label = (name, "")
            yield level, timings.ratio(label, (EAGER, ""))

    return measure


def saved(levels: Sequence[str], tokens: int) -> Measure:
    """Bytes kept for the backward pass over those of eager."""

    def measure(seconds: float) -> Cells:
        built, x, _ = block_calls(torch.bfloat16, tokens, 1024, 2816)

        def bytes_of(block: blocks.Block) -> int:
            return saved_bytes(partial(block.function, x), block.weights)

        for level in levels:
            yield level, bytes_of(built[f"{OURS}, separate, {level}"]) / bytes_of(built[EAGER])

    return measure


def source_build() -> Measure:
    """Seconds of a build of the operators from a copy of the sources, with nothing kept."""

    def measure(seconds: float) -> Cells:
        with tempfile.TemporaryDirectory() as folder:
            for each in BUILT_FROM:
                source, target = ROOT / each, Path(folder, each)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so"))
                else:
                    shutil.copy(source, target)
            path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
            begin = time.monotonic()
            command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            environment = os.environ | {"PATH": path, "FUSED_ACTS_CUDA": "0"}
            subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
            yield "operators", time.monotonic() - begin

    return measure
