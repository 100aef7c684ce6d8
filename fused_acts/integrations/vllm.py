"""The activations of vLLM by ours, through its registry of operators from outside.

A plugin of vLLM for which one asks: `VLLM_PLUGINS=fused_acts vllm serve ...`. In one's own program
`register` does the same, before a model is made.
"""

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fused_acts import functional

_call = functional.FUNCTIONS


def _gelu_and_mul(module: Any, x: Tensor) -> Tensor:
    return _call["geglu_tanh" if module.approximate == "tanh" else "geglu"](x)


def _silu_and_mul_with_clamp(module: Any, x: Tensor) -> Tensor:
    limit, alpha = module.swiglu_limit, module.alpha
    if module.beta == 0:
        return _call["swiglu"](x, beta=alpha, limit=limit)
    if module.beta == 1:
        return _call["swiglu_oai"](x, layout="gate_up", alpha=alpha, limit=limit)
    result: Tensor = module._forward_method(x)
    return result


# {class of vllm.model_executor.layers.activation: its forward}
_FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "FastGELU": lambda module, x: _call["gelu_tanh"](x),
    "FatreluAndMul": lambda module, x: _call["fatreglu"](x, threshold=module.threshold),
    "GELU": lambda module, x: _call["gelu"](x),
    "GELUTanh": lambda module, x: _call["gelu_tanh"](x),
    "GeluAndMul": _gelu_and_mul,
    "MulAndSilu": lambda module, x: _call["swiglu"](x, layout="up_gate"),
    "NewGELU": lambda module, x: _call["gelu_tanh"](x),
    "QuickGELU": lambda module, x: _call["quick_gelu"](x),
    "ReLUSquaredActivation": lambda module, x: _call["squared_relu"](x),
    "SiluAndMul": lambda module, x: _call["swiglu"](x),
    "SiluAndMulWithClamp": _silu_and_mul_with_clamp,
    "SwigluOAIAndMul": lambda module, x: _call["swiglu_oai"](
        x, alpha=module.alpha, limit=module.limit
    ),
}


def register() -> list[str]:
    """Has vLLM make our activations in the place of its own, in models made from now on.

    They run in eager mode and under torch.compile, whatever `custom_ops` of vLLM's configuration
    says. What is registered already stays, whoever did so.

    Returns the names of the classes whose place is taken.

    Raises ImportError without vLLM.
    """
    from vllm.model_executor import custom_op
    from vllm.model_executor.layers import activation

    taken = []
    for name, forward in _FORWARDS.items():
        own = getattr(activation, name, None)
        if own is None or name in custom_op.op_registry_oot:
            continue
        kind = type(name, (own,), {"__module__": __name__, "forward": forward})
        custom_op.CustomOp.register_oot(name=name)(kind)
        taken.append(name)
    return taken


def plugin() -> None:
    """`register`, if VLLM_PLUGINS names fused_acts: vLLM itself loads all that are installed."""
    if "fused_acts" in os.environ.get("VLLM_PLUGINS", "").split(","):
        register()
