"""The trial of a unit against its reference: of units of the library, as nothing is compiled."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from fused_acts import tables
from fused_acts._call import ROW_INDEX
from fused_acts._definitions import trial

SWISH = ROW_INDEX["swish"]


def unit(reference, **parameters):
    return tables.Activation(reference, "", "", parameters)


def scaled_swish(x):
    """With what follows the modes: a new tensor, and a gradient."""
    return x * torch.sigmoid(x * torch.tensor(1.0))


def try_swish():
    assert len(trial.check("unit", SWISH, unit(scaled_swish))) == 4 * 3


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "fake": FakeTensorMode,
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("mode", MODES)
def test_in_any_mode(mode):
    with MODES[mode]():
        try_swish()


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
def test_in_a_transform(transform):
    def function(x):
        try_swish()
        return x.sum()

    transform(function)(torch.ones(2, 3))


def test_on_one_thread(threads):
    threads(2)
    seen = set()

    def reference(x):
        with ThreadPoolExecutor(1) as others:
            seen.add((torch.get_num_threads(), others.submit(torch.get_num_threads).result()))
        return scaled_swish(x)

    trial.differences(SWISH, unit(reference))
    assert seen == {(1, 2)} and torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("reference", "parameters", "message"),
    [
        (F.elu, {"alpha": 1.0}, "parameters are given as tensors. It raised TypeError: elu"),
        (lambda x: 3.0, {}, "It returned float"),
        (torch.sum, {}, r"It returned one of shape \[\] and torch.float64, for \[13\]"),
        (torch.Tensor.float, {}, r"of shape \[13\] and torch.float32"),
        (lambda x: x.cos_(), {}, "Its derivatives: RuntimeError: a leaf Variable"),
    ],
)
def test_references_that_cannot_be_tried(reference, parameters, message):
    with pytest.raises(TypeError, match=rf"reference: expected a tensor of the shape.*{message}"):
        trial.check("unit", SWISH, unit(reference, **parameters))


@pytest.mark.parametrize(
    ("reference", "parameters"),
    [
        (lambda x: torch.log(x - 20), {}),
        (lambda x: torch.full_like(x, 3.0), {}),
        (lambda x, a: torch.where(x > a, x, a), {"a": 0.5}),
    ],
)
def test_references_that_can(reference, parameters):
    trial.check_reference_works(unit(reference, **parameters))


@pytest.mark.parametrize(("start", "is_asked"), [(20.0, True), (1e300, False)])
def test_nothing_need_be_finite_near_zero(start, is_asked):
    found = trial.differences(SWISH, unit(lambda x: torch.sqrt(x - start)))
    assert any(worst.beyond for worst in found) == is_asked


def test_the_page_has_every_budget():
    page = Path(__file__).parent.parent / "docs/own-units.md"
    for dtype, ulps in trial.ULPS.items():
        row = rf"\| {str(dtype).removeprefix('torch.')} \| {ulps:g}\b.*\| 2\^(-\d+) of"
        floor = re.search(row, page.read_text(encoding="utf-8"))[1]
        assert 2.0 ** int(floor) == trial.FLOOR[dtype]
