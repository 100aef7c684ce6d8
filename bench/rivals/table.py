"""Who takes part."""

from .adapters import (
    VLLM,
    Adapter,
    Compiled,
    Eager,
    Frozen,
    OneDNN,
    Ours,
    OursGiven,
    Zentorch,
)
from .runtimes import GGML, ONNX

EAGER, OURS = "eager", "fused-acts"
ADAPTERS: dict[str, type[Adapter]] = {
    EAGER: Eager,
    "torch.compile": Compiled,
    "torch.compile, freezing": Frozen,
    OURS: Ours,
    "fused-acts, out=": OursGiven,
    "onnxruntime": ONNX,
    "vLLM": VLLM,
    "ggml": GGML,
    "zentorch": Zentorch,
    "oneDNN": OneDNN,
}

# Those that no registry has for pip.
ABSENT = {
    "SGLang": "no package has its kernels for CPUs; those of sgl-kernel are for CUDA",
}
