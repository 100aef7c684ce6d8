"""No room for a result: torch's own error, of every operator that allocates."""

import re

import pytest
import torch

import fused_acts
from fused_acts import _ops
from fused_acts._library import BUILD

OPS = torch.ops.fused_acts
INF = float("inf")
SWIGLU = fused_acts.variants().index("swiglu")
ALONE = len(fused_acts.variants())
QUANTIZATION = (1, 0, False, False, 0.0, None)  # fp8_row


def calls_without_room(device):
    """Of every operator that allocates, and what a user calls."""
    x = torch.zeros(1, 4, device=device).expand(2**40, 4)
    like = {"dtype": torch.uint8, "device": device}
    winner, stats = torch.zeros(1, 4, **like).expand_as(x), x[:, :2]
    numbers, alone = (
        (None, None, None, 1.0, 1.0, INF, 1.0, SWIGLU, 0),
        (*(None,) * 3, 1.0, 1.0, INF, 1.0, ALONE, 0),
    )
    bias = torch.zeros(4, device=device)
    return {
        "gelu": lambda ops: fused_acts.gelu(x),
        "swish": lambda ops: fused_acts.swish(x, bias, beta=2.0),
        "swiglu": lambda ops: fused_acts.swiglu(x, x),
        "packed": lambda ops: fused_acts.swiglu(x),
        "maxout": lambda ops: fused_acts.maxout(x, 2),
        "softmax_glu": lambda ops: fused_acts.softmax_glu(x, x),
        "rms_norm_gated": lambda ops: fused_acts.rms_norm_gated(x, x, bias),
        "glu_forward": lambda ops: ops.glu_forward(x, x, SWIGLU, 0),
        "glu_forward_options": lambda ops: ops.glu_forward_options(x, x, *numbers),
        "glu_backward": lambda ops: ops.glu_backward(x, x, x, SWIGLU, 0, 3),
        "glu_backward_options": lambda ops: ops.glu_backward_options(x, x, x, *numbers, 3),
        "glu_backward_options, alone": lambda ops: ops.glu_backward_options(x, x, None, *alone, 1),
        "glu_double_backward": lambda ops: ops.glu_double_backward(
            x, x, x, x, x, *numbers, True, True
        ),
        "maxout_backward": lambda ops: ops.maxout_backward(x, winner, 2),
        "softmax_glu_backward": lambda ops: ops.softmax_glu_backward(x, x, x, stats, True, True),
        "gated_quantized": lambda ops: fused_acts.gated_quantized(x, x, format="mxfp8"),
        "glu_quantized": lambda ops: ops.glu_quantized(x, x, *numbers, *QUANTIZATION),
        "quantize_blocks": lambda ops: ops.quantize_blocks(x),
        "dequantize_blocks": lambda ops: ops.dequantize_blocks(
            winner.view(torch.float8_e4m3fn), x[:, :1], 1
        ),
        "row_unit_backward": lambda ops: ops.row_unit_backward(
            x, x, x, bias, None, x[:, :1], 0, 1e-6, 1, 7
        ),
    }


@pytest.mark.parametrize("which", calls_without_room("cpu"))
def test_out_of_memory_is_what_torch_says(which):
    x = torch.zeros(1, 4).expand(2**40, 4)
    with pytest.raises(RuntimeError) as raised:
        torch.nn.functional.gelu(x)
    words = re.search("DefaultCPUAllocator: .* tried to allocate ", str(raised.value)).group()
    for ops in (OPS, _ops.direct):
        with pytest.raises(RuntimeError, match=rf"{words}\d{{12,}} bytes") as ours:
            calls_without_room("cpu")[which](ops)
        assert "API call" not in str(ours.value)


@pytest.mark.cuda
@pytest.mark.parametrize("which", calls_without_room("cpu"))
def test_out_of_memory_on_a_gpu(which):
    with pytest.raises(torch.OutOfMemoryError, match="^CUDA .*out of memory"):
        calls_without_room("cuda")[which](_ops.direct)


def test_out_of_memory_in_place(tmp_path):
    """For a copy of what is read: what is written is there, in a file of holes."""
    try:
        gate = torch.from_file(str(tmp_path / "gate"), shared=True, size=2**40).view(2**20, 2**20)
    except RuntimeError:
        pytest.skip("no file of 4 TiB")
    numbers = (None, None, None, 1.0, 1.0, INF, 1.0, ALONE, 0, 1, False)
    with pytest.raises(RuntimeError, match=r"DefaultCPUAllocator: .* \d{12,} bytes"):
        OPS.glu_backward_inplace(torch.zeros(2**20, 1).expand(gate.shape), gate, None, *numbers)


def test_the_words_of_a_gpu_become_torchs_error():
    def operator(text):
        raise RuntimeError(text)

    for text, error in (
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", torch.OutOfMemoryError),
        ("CUDA error: out of memory", torch.OutOfMemoryError),
        ("gate: expected", RuntimeError),
    ):
        with pytest.raises(RuntimeError, match=re.escape(text)) as raised:
            _ops.telling_memory(operator)(text)
        assert raised.type is error


def test_a_build_without_gpus_calls_the_operators_themselves():
    bare = OPS.glu_forward.default._op
    assert (_ops.direct.glu_forward is bare) == (not BUILD["cuda_version"])
