"""Drawn calls, in a process of their own that a stray access ends, see fuzz_memory.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fuzz_memory import PAGE, SHARED, VIEWS, View, extent, place

pytest.importorskip("hypothesis")

HERE = Path(__file__).resolve().parent


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)


def fuzz(examples: int, seed: str, device: str, path: Path) -> None:
    """Fails with the smallest case that fails, or that at which the process ended."""
    last = path / "case"
    done = python("fuzz_run.py", str(examples), seed, device, str(last))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        pytest.fail(f"{name} in {last.read_text()}\n{done.stderr}", pytrace=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    print(done.stdout)
    assert "unit, grad" in done.stdout and "refused" in done.stdout


def test_the_same_cases_each_time(tmp_path):
    fuzz(1500, "none", "cpu", tmp_path)


@pytest.mark.cuda
def test_the_same_cases_on_a_gpu(tmp_path):
    fuzz(400, "none", "cuda", tmp_path)


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("seed", range(8))
def test_more_cases(seed, tmp_path):
    fuzz(10_000, str(seed), "cpu", tmp_path)


@pytest.mark.parametrize("at_end", [False, True])
def test_a_stray_access_ends_the_process(at_end):
    """The measure itself: one element outside is found, at either side."""
    code = (
        "import ctypes, torch; from fuzz_memory import guarded;"
        f"t = guarded(5, torch.float32, {at_end}); t.fill_(1.0);"
        "read = lambda i: ctypes.c_float.from_address(t.data_ptr() + 4 * i).value;"
        "assert read(0) == read(4) == 1.0; print('inside', flush=True);"
        f"read({5 if at_end else -1})"
    )
    done = python("-c", code)
    assert (done.stdout, done.returncode) == ("inside\n", -signal.SIGSEGV)


def test_views_have_their_values_and_end_where_they_do():
    values = torch.arange(24.0).view(2, 3, 4)
    made = {kind: place(values, View(kind, 2, True)) for kind in VIEWS}
    assert len({t.stride() for t in made.values()}) == len(VIEWS)
    for kind, t in made.items():
        assert kind in SHARED or torch.equal(t, values)
        elements = extent(t.shape, t.stride())
        last = t.data_ptr() + elements * t.element_size()
        assert last % PAGE == 0
