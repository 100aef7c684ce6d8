"""What is wrong about rows of experts, and what is cut where nobody looks."""

import pytest
import torch
from cases import DEVICES, random, same_bits, to_device
from torch import Tensor

import fused_acts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"offs": [1, 2], "counts": [1]}, ValueError, "counts: expected none beside offs"),
        ({"offs": [1, 2], "row_expert": [0] * 6}, ValueError, "row_expert: expected none beside"),
        ({"offs": torch.tensor([1, 2])}, TypeError, "offs: expected .*int32"),
        ({"offs": [[1, 2]]}, ValueError, "offs: expected shape .experts"),
        ({"counts": [1, 2]}, ValueError, "counts: expected gate as .experts, rows, cols"),
        ({"row_expert": [0] * 5}, ValueError, "row_expert: expected one for each row"),
        ({"offs": 3}, TypeError, "offs: expected a torch.Tensor, got int"),
        ({"offs": [2, 6], "padding": "none"}, ValueError, "padding: expected one of skip, zero"),
        ({"offs": [2, 6], "bias": torch.ones(3, 8)}, ValueError, "bias: expected values for 2"),
        ({"offs": [2, 6], "beta": torch.ones(4)}, ValueError, r"beta: .* each of 2 .*got \[4\]"),
        ({"bias": torch.ones(2, 8)}, ValueError, "bias: expected shape"),
        ({"row_expert": [0] * 6, "beta": torch.ones(2, 3)}, ValueError, "beta: expected"),
    ],
)
def test_refusals(options, error, message, device):
    given = {
        name: to_device(torch.tensor(value, dtype=torch.int32), device)
        if isinstance(value, list)
        else to_device(value, device)
        if isinstance(value, Tensor)
        else value
        for name, value in options.items()
    }
    x = to_device(torch.ones(6, 8), device)
    with pytest.raises(error, match=message):
        fused_acts.swiglu(x, **given)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"offs": [4, 2]}, "offs: expected ends that do not decrease"),
        ({"offs": [4, 7]}, "offs: expected ends that do not decrease, of 6 rows"),
        ({"row_expert": [0, 1, 2, 3, 0, 0], "bias": torch.ones(3, 8)}, "row_expert: expected an"),
    ],
)
def test_indices_out_of_range(options, message):
    """Said where a look costs nothing: on the CPU."""
    given = {
        name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int32)
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        fused_acts.swiglu(torch.ones(6, 8), **given)


@pytest.mark.parametrize("device", DEVICES)
def test_counts_are_cut_to_the_rows_there_are(device):
    x = to_device(random(2, 3, 8, dtype=torch.float32, seed=1), device)
    counts = to_device(torch.tensor([9, -2], dtype=torch.int32), device)
    out = fused_acts.swiglu(x, counts=counts, padding="zero").cpu()
    assert same_bits(out[0], fused_acts.swiglu(x).cpu()[0]) and (out[1] == 0).all()


@pytest.mark.parametrize("rounding", ["single", "eager"])
def test_no_experts_at_all(rounding):
    counts = torch.zeros(0, dtype=torch.int32)
    assert fused_acts.swiglu(torch.ones(0, 3, 8), counts=counts, rounding=rounding).numel() == 0


def test_nested_tensors_have_no_rows_of_their_own():
    x = torch.nested.nested_tensor([torch.ones(2, 8), torch.ones(3, 8)], layout=torch.jagged)
    with pytest.raises(ValueError, match="weight: expected no tensor with nested"):
        fused_acts.swiglu(x, weight=torch.ones(5))
