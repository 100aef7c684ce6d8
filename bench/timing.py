"""Interleaved timing: in each round every contender runs once, so that noise hits all alike.

A contender's time is the median over rounds, its ratio to another the median of the rounds' ratios.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Call = Callable[[], object]
Sampler = Callable[[], float]  # runs a contender, returns seconds per call
Label = tuple[str, str]  # competitor, output ("fresh" or "given")

SAMPLE_SECONDS = 200e-6
MIN_ROUNDS = 3
GRAPH_BELOW_SECONDS = 300e-6  # on CUDA: below this the host may be slower than the kernels


class Clock:
    """A time limit."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())


@dataclass(frozen=True)
class Timings:
    samples: Mapping[Label, Sequence[float]]  # seconds per call, one a round
    total_seconds: float  # that the rounds took, warm-ups and repeats included

    def seconds(self, label: Label) -> float:
        return statistics.median(self.samples[label])

    def best_seconds(self, label: Label) -> float:
        return min(self.samples[label])

    def ratios(self, label: Label, base: Label) -> list[float]:
        """time(label) / time(base) of each round."""
        pairs = zip(self.samples[label], self.samples[base], strict=True)
        return [own / other for own, other in pairs]

    def ratio(self, label: Label, base: Label) -> float:
        """The median over rounds."""
        return statistics.median(self.ratios(label, base))


def interleave(
    samplers: Mapping[Label, Sampler], seconds: float, clock: Clock, max_rounds: int
) -> Timings:
    """Rounds for about `seconds`, at least MIN_ROUNDS unless the clock runs out, at least one."""
    labels = list(samplers)
    samples: dict[Label, list[float]] = {label: [] for label in labels}
    began, own, order = time.monotonic(), Clock(seconds), random.Random(0)
    with collector_off():
        for done in range(max_rounds):
            # In another order each round: none is always behind the same neighbour.
            for label in order.sample(labels, len(labels)):
                samples[label].append(samplers[label]())
            if not clock.left() or (done + 1 >= MIN_ROUNDS and not own.left()):
                break
    return Timings(samples, time.monotonic() - began)


def make_sampler(calls: Sequence[Call], device: torch.device) -> Sampler:
    """`calls` do the same work, each on memory of its own: on CUDA all of them are gone through."""
    return cuda_sampler(calls) if device.type == "cuda" else cpu_sampler(calls[0])


def cpu_sampler(call: Call) -> Sampler:
    call()
    start = time.perf_counter()
    call()
    repeats = math.ceil(SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-7))

    def sample() -> float:
        if repeats > 1:  # what the neighbour left in the caches must not count against this one
            call()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    return sample


def cuda_sampler(calls: Sequence[Call]) -> Sampler:
    """CUDA events around one pass over all buffers, which together exceed the L2 cache.

    Where the kernels are short the pass is a CUDA graph, so that they and not the host are timed.
    """

    def run() -> None:
        # The results are kept until the pass ends, so that fresh outputs are distinct memory too.
        results = [call() for call in calls]
        del results

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    seconds = time_events(run) / len(calls)
    if len(calls) > 1 or seconds < GRAPH_BELOW_SECONDS:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return lambda: time_events(graph.replay) / len(calls)
    return lambda: time_events(run) / len(calls)


def time_events(run: Callable[[], None]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def buffer_sets(set_bytes: int, device: torch.device) -> int:
    """How many sets of buffers keep every pass over them out of the L2 cache of a GPU.

    On the CPU one: there an operator finds its inputs where the matrix product before it left them.
    """
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(1024, math.ceil(3 * cache / set_bytes))


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
