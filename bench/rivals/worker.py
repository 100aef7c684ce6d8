"""A competitor's process: answers questions over a pipe until it is closed."""

import math
import pickle
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapter, Call
from .table import ADAPTERS
from .units import UNITS, Case, Pool

SAMPLE_SECONDS = 3e-3  # of calls before the clock starts, and by the clock
LONG_SECONDS = 20e-3  # a call of this length needs no other before it
SAMPLES = 512  # elements of each result that are checked


class Worker:
    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.held: tuple[Any, Any] = (None, None)  # operands of the last case, and what they are of
        self.call: Any = None  # what is timed
        self.backward = False  # whether it does both passes
        self.repeats, self.warm = 1, 0

    def prepare(self, case: Case, pool: Pool) -> dict[str, Any]:
        """Runs it once. lacks: the competitor has no such thing; sample: of its results."""
        self.call = None
        key = (case.form, case.dtype, case.tokens, case.cols, case.backward)
        if self.held[0] != key:
            self.held = (None, None)
            self.held = (key, pool.operands(case))
        tensors, grad_out = self.held[1]
        unit = UNITS[case.unit]
        with torch.set_grad_enabled(case.backward):
            if case.backward:
                call = self.adapter.backward(unit, [t.requires_grad_() for t in tensors], grad_out)
            else:
                call = self.adapter.forward(unit, tensors)
            if call is None:
                return {"lacks": True}
            results = call()
            sample = [strided(result) for result in as_list(results)]
            del results
            self.calibrate(call)
        self.call, self.backward = call, case.backward
        return {"sample": sample}

    def calibrate(self, call: Call) -> None:
        start = time.perf_counter()
        call()
        seconds = max(time.perf_counter() - start, 1e-7)
        self.repeats = math.ceil(SAMPLE_SECONDS / seconds)
        self.warm = 0 if seconds > LONG_SECONDS else self.repeats

    def time(self) -> float:
        """Seconds a call, after as many calls: threads wake up, and caches fill."""
        call = self.call
        with torch.set_grad_enabled(self.backward):
            for _ in range(self.warm):
                call()
            start = time.perf_counter()
            for _ in range(self.repeats):
                call()
            return (time.perf_counter() - start) / self.repeats

    def values(self, unit: str, tensors: Sequence[Tensor]) -> Tensor | None:
        """The result for these operands, None where the competitor has no such thing."""
        with torch.no_grad():
            call = self.adapter.forward(UNITS[unit], tensors)
            return None if call is None else call().clone()


def as_list(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


def positions(size: int) -> Tensor:
    """Of the elements of a result that are checked, the first and the last among them."""
    return torch.linspace(0, size - 1, min(size, SAMPLES), dtype=torch.float64).round().long()


def strided(result: Tensor) -> Tensor:
    flat = result.detach().reshape(-1)
    return flat[positions(flat.numel())].clone()


def send(connection: Connection, message: Any) -> None:
    """By plain pickle, which copies tensors: multiprocessing's own shares their memory."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def main(name: str, handle: int, threads: int) -> None:
    torch.set_num_threads(threads)
    with Connection(handle) as connection:
        worker = Worker(ADAPTERS[name]())
        send(connection, {"version": worker.adapter.version()})
        while True:
            try:
                question, *arguments = receive(connection)
            except EOFError:
                return
            try:
                answer = getattr(worker, question)(*arguments)
            except Exception as error:  # of a competitor: the driver names it
                answer = {"error": f"{type(error).__name__}: {error}"}
            send(connection, answer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
