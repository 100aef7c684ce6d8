"""One case from end to end: inputs, check, interleaved timing, rows of results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .bandwidth import LIMIT, limit_samplers
from .cases import Case, Inputs, make_inputs
from .check import Error, Oracle
from .competitors import EAGER, Competitor
from .timing import Call, Clock, Label, Sampler, Timings, buffer_sets, interleave, make_sampler

BASE: Label = (EAGER, "fresh")


@dataclass(frozen=True)
class Line:
    """What a line of the results is about."""

    model: str
    variant: str
    layout: str
    dtype: str
    d_ff: int
    tokens: int
    direction: str
    competitor: str
    output: str


@dataclass(frozen=True)
class Row(Line):
    """A result. 1 GB is 10^9 bytes, ratios are of time."""

    seconds: float
    gb_per_s: float
    limit_gb_per_s: float
    percent_of_limit: float
    ratio_to_eager: float
    ratio_low: float  # the quartiles over the rounds
    ratio_high: float
    worst_error_eps: float
    rms_error: float
    rounds: int


@dataclass(frozen=True)
class Failure(Line):
    reason: str


@dataclass(frozen=True)
class Measurement:
    case: Case
    timings: Timings
    errors: Mapping[Label, Error]
    reasons: Mapping[Label, str]  # of failures

    @property
    def limit(self) -> Label:
        """The fastest way to read two such tensors and write one."""
        limits = [label for label in self.timings.samples if label[0] == LIMIT]
        return min(limits, key=self.timings.seconds)

    def gb_per_s(self, label: Label) -> float:
        return self.case.traffic_bytes / 1e9 / self.timings.seconds(label)

    def limit_gb_per_s(self) -> float:
        return 3 * self.case.tensor_bytes / 1e9 / self.timings.seconds(self.limit)

    def rows(self) -> list[Row]:
        return [self.row(label) for label in self.timings.samples if label[0] != LIMIT]

    def failures(self) -> list[Failure]:
        return [Failure(**self.about(label), reason=text) for label, text in self.reasons.items()]

    def about(self, label: Label) -> dict[str, Any]:
        case, (competitor, output) = self.case, label
        about = Line(
            model=case.model.name,
            variant=case.model.variant,
            layout=case.model.layout,
            dtype=case.dtype_name,
            d_ff=case.model.d_ff,
            tokens=case.tokens,
            direction=case.direction,
            competitor=competitor,
            output=output,
        )
        return asdict(about)

    def row(self, label: Label) -> Row:
        limit = self.limit_gb_per_s()
        ratios = self.timings.ratios(label, BASE)
        low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
        return Row(
            **self.about(label),
            seconds=self.timings.seconds(label),
            gb_per_s=self.gb_per_s(label),
            limit_gb_per_s=limit,
            percent_of_limit=100 * self.gb_per_s(label) / limit,
            ratio_to_eager=median,
            ratio_low=low,
            ratio_high=high,
            worst_error_eps=self.errors[label].worst,
            rms_error=self.errors[label].rms,
            rounds=len(ratios),
        )


def measure(
    case: Case,
    competitors: Sequence[Competitor],
    device: torch.device,
    *,
    seconds: float,
    clock: Clock,
    max_rounds: int,
    note: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Checks every competitor, then times those that are right against each other."""
    inputs = make_inputs(case, device, buffer_sets(3 * case.tensor_bytes, device))
    oracle = Oracle(case, inputs[0])
    samplers: dict[Label, Sampler] = {}
    errors: dict[Label, Error] = {}
    reasons: dict[Label, str] = {}
    for competitor in competitors:
        for output in ("fresh",) if case.backward else ("fresh", "given"):
            label = (competitor.name, output)
            if (case.backward and not competitor.backward) or (
                output == "given" and competitor.given is None
            ):
                continue
            note(f"{competitor.name}, {output} output")
            own = make_inputs(case, device, len(inputs)) if competitor.overwrites_inputs else inputs
            try:
                calls = [make_call(competitor, output, each) for each in own]
                error = oracle.error(run_once(calls[0], output, own[0]))
                if not error.acceptable:
                    reasons[label] = f"wrong: off by {error.worst:.3g} eps"
                    continue
                samplers[label], errors[label] = make_sampler(calls, device), error
            except Exception as problem:  # a competitor that breaks must not end the run
                text = str(problem).strip() or type(problem).__name__
                reasons[label] = f"failed: {text.splitlines()[0][:100]}"
    if BASE not in samplers:
        raise RuntimeError(f"eager {reasons[BASE]}")
    samplers |= limit_samplers([limit_operands(case, each) for each in inputs])
    note("timing")
    return Measurement(case, interleave(samplers, seconds, clock, max_rounds), errors, reasons)


def make_call(competitor: Competitor, output: str, inputs: Inputs) -> Call:
    tensors = inputs.tensors
    if inputs.grad_out is not None:
        return partial(forward_backward, competitor.fresh, tensors, inputs.grad_out)
    if output == "given":
        assert competitor.given is not None
        return partial(competitor.given, *tensors, out=inputs.out)
    return partial(competitor.fresh, *tensors)


def forward_backward(
    function: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad_out: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*tensors), tensors, grad_out)


def run_once(call: Call, output: str, inputs: Inputs) -> Sequence[Tensor]:
    """What the competitor computed. A given output is poisoned first: all of it must be written."""
    if output == "given":
        assert inputs.out is not None
        inputs.out.fill_(float("nan"))
        call()
        return [inputs.out]
    result = call()
    return [result] if isinstance(result, Tensor) else cast(Sequence[Tensor], result)


def limit_operands(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The competitors' own memory as (a, b, out), each [tokens * d_ff]."""
    flat = [tensor.detach().view(-1) for tensor in inputs.tensors]
    a, b = flat if len(flat) == 2 else flat[0].split(case.elements)
    return a, b, torch.empty_like(a) if inputs.out is None else inputs.out.view(-1)
