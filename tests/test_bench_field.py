"""`python -m bench field`: two competitors in processes of their own, what it says of others."""

import csv
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent))  # last: the package tested is the installed one

for needed in ("numpy", "rich", "matplotlib"):
    pytest.importorskip(needed)

from bench import __main__ as command_line  # noqa: E402
from bench.rivals import driver, environments  # noqa: E402
from bench.rivals.check import Oracle, Ruler  # noqa: E402
from bench.rivals.table import ADAPTERS, EAGER, OURS  # noqa: E402
from bench.rivals.units import DTYPES, GATED, UNITS, Case, Pool, pool_size  # noqa: E402
from bench.rivals.worker import Worker  # noqa: E402


@pytest.mark.slow
def test_two_competitors(tmp_path):
    chosen = [
        "--competitors",
        OURS,
        "--units",
        "swiglu",
        "--dtypes",
        "bf16",
        "--output",
        str(tmp_path),
    ]
    small = ["--tokens", "2", "--cols", "64", "--seconds", "0.1", "--rounds", "2"]
    assert command_line.main(["field", *chosen, *small]) == 0
    rows = list(csv.DictReader((tmp_path / "field.csv").open()))
    found = {(row["direction"], row["competitor"]): row for row in rows}
    directions = ("forward", "forward+backward")
    assert set(found) == {(d, name) for d in directions for name in (EAGER, OURS)}
    assert float(found["forward", EAGER]["ratio_to_eager"]) == 1
    assert float(found["forward", OURS]["worst_ulps"]) <= 0.51  # docs/numerics.md
    assert float(found["forward", EAGER]["near_ulps"]) > 0.51  # rounds twice
    assert "| swiglu |" in (tmp_path / "field.md").read_text()
    assert (tmp_path / "field.png").stat().st_size > 0


def test_those_that_do_not_come_are_named(tmp_path, monkeypatch):
    def ready_python(name, packages, log, limit):
        if name == "vLLM":
            raise environments.NotInstalled("no such version")
        return "/bin/false"

    monkeypatch.setattr(driver, "ready_python", ready_python)
    field = driver.assemble(["vLLM", "ggml"], tmp_path, 1, 10, print)
    assert not field.competitors
    assert field.absent["vLLM"] == "not installed: no such version"
    assert field.absent["ggml"].startswith("does not start: its process ended")
    assert environments.reason("Collecting a\nERROR: No matching one\nhint\n") == "No matching one"


@pytest.mark.slow
def test_a_process_that_ends_is_noted_and_started_again(tmp_path):
    one = driver.Competitor(EAGER, sys.executable, tmp_path / "log", threads=1, limit=60)
    field, case = driver.Field([one]), Case("swiglu", "bf16", 2, 64)
    gate = torch.tensor([[1.0, -2.0]])
    try:
        one.start()
        one.process.kill()
        assert driver.values(field, one, case, [gate, gate]) is None
        result = driver.values(field, one, case, [gate, gate])
        os.kill(one.process.pid, signal.SIGSTOP)  # or it may have answered by then
        one.limit = 0
        assert driver.values(field, one, case, [gate, gate]) is None
    finally:
        field.stop()
    torch.testing.assert_close(result, UNITS["swiglu"].eager(gate, gate))
    first, second = field.failures[EAGER, "bf16"]
    assert "its process ended" in first and "no answer within 0 seconds" in second


class InThisProcess(driver.Competitor):
    def __init__(self, name, adapter):
        super().__init__(name, "", Path(), threads=1, limit=0)
        self.worker = Worker(adapter)

    def ask(self, question, *arguments):
        try:
            return getattr(self.worker, question)(*arguments)
        except RuntimeError as error:
            return {"error": str(error)}


class Wrong(ADAPTERS[EAGER]):
    def function(self, unit):
        return lambda *tensors: unit.eager(*tensors) * 1.1


class Fails(ADAPTERS[EAGER]):
    """When it is called for the tenth time, which is when it is timed."""

    calls = 0

    def function(self, unit):
        def call(*tensors):
            self.calls += 1
            if self.calls == 10:
                raise RuntimeError("no more")
            return unit.eager(*tensors)

        return call


@pytest.mark.slow
def test_who_is_wrong_or_fails_is_not_timed(tmp_path):
    adapters = {EAGER: ADAPTERS[EAGER](), OURS: ADAPTERS[OURS](), "a": Wrong(), "b": Fails()}
    field = driver.Field([InThisProcess(name, adapter) for name, adapter in adapters.items()])
    pool, case = Pool(tmp_path, pool_size([2], 64)), Case("reglu", "bf16", 2, 64)
    pool.write(["bf16"], seed=0)
    timings = driver.measure(field, case, pool, seconds=0.05, rounds=3)
    assert {name for name, _ in timings.samples} == {EAGER, OURS}
    assert "wrong: off by" in field.failures["a", "bf16"][0]
    assert "no more" in field.failures["b", "bf16"][0]
    assert len(list(field.notes())) == 2
    driver.measure(field, case, pool, seconds=0.05, rounds=3)
    assert len(field.failures["a", "bf16"]) == 1  # it was not asked again


@pytest.mark.parametrize("name", [EAGER, OURS, "fused-acts, out=", "oneDNN"])
def test_results_are_right_and_others_are_found_out(name, tmp_path):
    """Of all units, in this process; a result that is a little wrong is a fault."""
    pool, worker = Pool(tmp_path, pool_size([3], 40)), Worker(ADAPTERS[name]())
    pool.write(["fp32"], seed=0)
    for unit in UNITS.values():
        for backward in (False, True) if unit.form == GATED else (False,):
            case = Case(unit.name, "fp32", 3, 40, backward)
            answer = worker.prepare(case, pool)
            if "lacks" in answer:
                assert name not in (EAGER, OURS)
                continue
            oracle = Oracle(case, pool)
            assert oracle.fault(answer["sample"]) == ""
            assert oracle.fault([each * 1.01 for each in answer["sample"]]).startswith("off by")


@pytest.mark.parametrize("dtype", DTYPES)
def test_ulps(dtype):
    """Of a rounded result half an ulp; of one next to it, more; of none, all digits."""
    ruler = Ruler(dtype, seed=0)
    right = ruler.exact("swiglu")
    rounded = right.to(DTYPES[dtype])
    assert ruler.ulps(rounded, right).worst <= 0.501  # torch rounds by way of float32
    beside = torch.nextafter(rounded, torch.tensor(torch.inf, dtype=rounded.dtype))
    assert 0.9 < ruler.ulps(beside, right).near < 3  # one, of a binade below
    assert ruler.ulps(torch.zeros_like(rounded), right).worst > 0.5 / torch.finfo(rounded.dtype).eps
    assert ruler.ulps(rounded * torch.nan, right).near == torch.inf
