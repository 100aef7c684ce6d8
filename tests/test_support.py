"""What works for what on which device: one test for each cell of docs/support.md.

`pytest tests/test_support.py --write-support` writes the cells that it runs. Without it, a test
whose cell does not say so fails, as does a cell without test.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import support_page
import torch
from support_cases import (
    COLUMNS,
    EXPECTED,
    IN_ONE,
    LINES,
    autocast,
    dtensor,
    has,
    inputs_on,
    module_on,
)
from tolerances import SUPPORT
from torch.distributed.device_mesh import init_device_mesh


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A process group of this process alone."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:gloo", init_method=f"file://{store}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of all lines by a column that computes them in one program."""
    made: dict[Any, dict[str, torch.Tensor]] = {}

    def of(column):
        if column not in made:
            made[column] = column(str(tmp_path_factory.mktemp("program")))
        return made[column]

    return of


def tensors(results) -> list[torch.Tensor]:
    """One, or those of a sequence."""
    results = [results] if isinstance(results, torch.Tensor) else results
    return [tensor.detach().cpu() for tensor in results]


def cells() -> Iterator[Any]:
    for name, line in LINES.items():
        for device in ("cpu", "cuda"):
            for title, column in COLUMNS.items():
                if has(line, column) and not (device == "cuda" and column in IN_ONE):
                    marks = [pytest.mark.cuda] if device == "cuda" else []
                    marks += [pytest.mark.slow] if column in IN_ONE else []
                    cell = (name, device, title)
                    yield pytest.param(*cell, marks=marks, id="-".join(cell))


@pytest.mark.parametrize(("name", "device", "title"), list(cells()))
def test_cell(name, device, title, request, outputs):
    line, column = LINES[name], COLUMNS[title]
    dtype = torch.float64
    if column in IN_ONE:
        dtype = torch.float32
        actual = outputs(column)[name].double()
    else:
        more = ()
        if column is autocast:
            dtype = torch.bfloat16 if line.is_module else torch.float32
        if column is dtensor:
            request.getfixturevalue("group")
            more = (init_device_mesh(device, (1,)),)
        inputs = inputs_on(device, line.inputs)
        actual = column(module_on(device, line, column, True), inputs, *more)
    oracle = EXPECTED.get(column, column)
    expected = oracle(module_on("cpu", line, column, False), inputs_on("cpu", line.inputs))
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        atol = SUPPORT[dtype] * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
    if not request.config.getoption("--write-support"):
        assert support_page.read().get((name, device, title)) == "yes", "run with --write-support"


def test_no_cell_without_a_test():
    tried = {tuple(parameters.values[:3]) for parameters in cells()}
    page = support_page.read()
    assert {place for place, said in page.items() if said == "yes"} == tried
    assert [*dict.fromkeys(name for name, _, _ in page)] == [*LINES]
    for (name, _, title), said in page.items():
        assert said in ("yes", "" if has(LINES[name], COLUMNS[title]) else "-")
