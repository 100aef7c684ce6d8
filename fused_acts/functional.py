"""The public functions: `gated`, and one for each variant, made from the table of variants."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from fused_acts._ops import LAYOUTS, NAMES
from fused_acts.autograd import glu_forward, glu_forward_out
from fused_acts.reference import VARIANTS

_VARIANT_INDEX = {name: index for index, name in enumerate(NAMES)}
_LAYOUT_INDEX = {name: index for index, name in enumerate(LAYOUTS)}


class GatedFunction(Protocol):
    """The signature of a variant's own function."""

    def __call__(
        self,
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str = "gate_up",
        out: Tensor | None = None,
    ) -> Tensor: ...


def variants() -> tuple[str, ...]:
    """The names of all variants."""
    return NAMES


def unknown(argument: str, name: str, names: Iterable[str]) -> ValueError:
    return ValueError(f"{argument}: expected one of {', '.join(names)}, got {name!r}")


def gated(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    out: Tensor | None = None,
) -> Tensor:
    """f(gate) * g(up), where f and g are the activations of the variant, see `fused_acts.variants`.

    Args:
        gate: [..., cols], or without up the packed tensor x: [..., 2 * cols]. float64, float32,
            float16 or bfloat16, on the CPU or a CUDA device. Any row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate: nothing is broadcast or promoted.
        layout: where a packed x holds gate and up. "gate_up": gate is the first half of the
            columns; "up_gate": the second half, as in torch.nn.functional.glu; "interleaved": gate
            is at the even columns, up at the odd ones.
        out: a tensor [..., cols] of the dtype and device of gate to write the result into.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate.
        ValueError: a shape or device does not match, a packed width is odd, a tensor is 0-d, a name
            is unknown, or a layout is given with two tensors.
        RuntimeError: out is given and an argument requires grad or has a tangent.
    """
    index = _VARIANT_INDEX.get(variant)
    if index is None:
        raise unknown("variant", variant, NAMES)
    return _call(gate, up, index, layout, out)


def _call(gate: Tensor, up: Tensor | None, variant: int, layout: str, out: Tensor | None) -> Tensor:
    index = _LAYOUT_INDEX.get(layout)
    if index is None:
        raise unknown("layout", layout, LAYOUTS)
    if up is not None and index:
        raise ValueError(f"layout: expected gate_up with two tensors, got {layout!r}")
    try:
        if out is None:
            return glu_forward(gate, up, variant, index)
        return glu_forward_out(gate, up, variant, index, out)
    except (AttributeError, RuntimeError):
        # Looked into only after a failure, so that calls on small tensors do not pay for it.
        for argument, value in (("gate", gate), ("up", up), ("out", out)):
            if not isinstance(value, Tensor) and (value is not None or argument == "gate"):
                got = type(value).__name__
                raise TypeError(f"{argument}: expected a torch.Tensor, got {got}") from None
        raise


def _function(name: str, variant: int) -> GatedFunction:
    def function(
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str = "gate_up",
        out: Tensor | None = None,
    ) -> Tensor:
        return _call(gate, up, variant, layout, out)

    _, _, arguments = (gated.__doc__ or "").partition("\n\n")
    row = VARIANTS[name]
    function.__doc__ = f"{name}(gate, up) = {row.formula}\n\n    From {row.source}.\n\n{arguments}"
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fused_acts"
    return function


FUNCTIONS = {name: _function(name, variant) for name, variant in _VARIANT_INDEX.items()}
