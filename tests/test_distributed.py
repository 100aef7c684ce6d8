"""More than one process: two with gloo on the CPU run the checks of the distributed_*.py files."""

import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import distributed_activations
import distributed_calls
import distributed_experts
import distributed_models
import distributed_packed
import distributed_quantized
import distributed_sharding
import pytest
import torch
import torch.distributed
from subprocess_runner import leave
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, spawn

PROCESSES = 2
SECONDS = 240  # for all checks together; a process that waits for one that failed would not end
MODULES = (
    distributed_sharding,
    distributed_calls,
    distributed_activations,
    distributed_models,
    distributed_packed,
    distributed_experts,
    distributed_quantized,
)
CHECKS = {
    f"{module.__name__.removeprefix('distributed_')}.{name.removeprefix('check_')}": check
    for module in MODULES
    for name, check in vars(module).items()
    if name.startswith("check_") and check.__module__ == module.__name__
}
# The versions of PyTorch since which DTensor can do these, see docs/distributed.md.
SINCE = {name: (2, 13) for name in CHECKS if name.startswith("packed.")}
SINCE |= dict.fromkeys(
    (
        "calls.out",
        "calls.out_that_cannot_be_written",
        "calls.double_backward",
        "activations.out",
    ),
    (2, 12),
)
AVAILABLE = [name for name in CHECKS if torch.__version__ >= SINCE.get(name, (2, 10))]


def work(rank: int, folder: str, names: list[str]) -> None:
    """Runs the checks in one of the processes and notes those that passed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (PROCESSES,))
    with open(f"{folder}/passed.{rank}", "w", buffering=1) as passed:
        for name in names:
            try:
                CHECKS[name](mesh)
            except BaseException:  # which the failures of pytest are
                Path(folder, f"error.{rank}").write_text(f"{name}: {traceback.format_exc()}")
                raise
            torch.distributed.barrier()
            passed.write(f"{name}\n")
    torch.distributed.destroy_process_group()
    leave()


def run_all(names: list[str], seconds: float) -> tuple[set[str], str]:
    """The checks that passed in all processes, and what ended the rest."""
    with tempfile.TemporaryDirectory() as folder:
        context = spawn(work, (folder, names), PROCESSES, join=False)
        deadline = time.monotonic() + seconds
        ended = f"no end after {seconds} seconds"
        try:
            while time.monotonic() < deadline:
                if context.join(timeout=1):
                    ended = ""
                    break
        except (ProcessRaisedException, ProcessExitedException) as failure:
            ended = str(failure)
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        passed = [set(path.read_text().split()) for path in Path(folder).glob("passed.*")]
        errors = [path.read_text() for path in Path(folder).glob("error.*")]
        return set.intersection(*passed) if passed else set(), "\n".join(errors) or ended


@pytest.fixture(scope="module")
def outcome() -> tuple[set[str], str]:
    return run_all(AVAILABLE, SECONDS)


@pytest.mark.parametrize("name", CHECKS)
def test_in_two_processes(name, outcome):
    if name not in AVAILABLE:
        pytest.skip(f"needs PyTorch {SINCE[name]}")
    passed, error = outcome
    assert name in passed, error
