"""The installed package as a local repository of layers for Hugging Face's `kernels`.

`kernels` reads this folder, metadata.json and layers.py; see `mapping`.
"""

from pathlib import Path
from typing import Any

from . import layers

__all__ = ["REPOSITORY", "layers", "mapping"]

REPOSITORY = Path(__file__).parent
_LAYERS = ("SwiGLUMLP", "GeGLUMLP")


def mapping() -> dict[str, dict[str, Any]]:
    """{name of a layer: {device: LocalLayerRepository}}, for `kernels.register_kernel_mapping`.

    The layers are SwiGLUMLP, down_proj(silu(gate_proj(x)) * up_proj(x)), and GeGLUMLP, the same
    with GELU by tanh, on "cpu" and "cuda", for inference, training and torch.compile.

    Raises ImportError without the package `kernels`.
    """
    from kernels import LocalLayerRepository

    return {
        name: {
            device: LocalLayerRepository(REPOSITORY, layer_name=name) for device in ("cpu", "cuda")
        }
        for name in _LAYERS
    }
