"""The activations of the gated units, alone and behind their projections."""

from typing import Any

import torch
from torch import Tensor

from fused_acts import _checks, functional
from fused_acts._call import ROW_KINDS, VARIANT_INDEX, index_of, resolve, unknown
from fused_acts._layouts import Layout
from fused_acts._names import OwnName, VariantName
from fused_acts._rows import DEFINITIONS
from fused_acts.tables import VARIANTS, Activation, Variant

LEARNED = ("learned", "per_channel")


def check_options(variant: int, layout: str, options: dict[str, Any]) -> None:
    for name in (*ROW_KINDS, "padding"):
        if name in options:
            raise TypeError(f"{name}: expected none, for a module takes no rows of experts")
    resolve(variant, layout, options)
    for name, value in options.items():
        if isinstance(value, Tensor):
            raise TypeError(f"{name}: expected no tensor, which a module would not register")


def register_learned(
    module: torch.nn.Module,
    row: Variant | Activation,
    options: dict[str, Any],
    num_channels: int | None,
    device: Any,
    dtype: torch.dtype | None,
) -> tuple[str, ...]:
    """Makes those of the row's parameters that are to be learned Parameters of the module.

    Then takes them out of the options given, and returns their names.
    """
    learned = tuple(name for name in row.parameters if isinstance(options.get(name), str))
    for name in learned:
        kind = options.pop(name)
        if kind not in LEARNED:
            raise TypeError(unknown(name, kind, ("a number", *LEARNED)))
        shape = (1,)  # as of nn.PReLU: FSDP takes no parameter without a dimension
        if kind == "per_channel":
            if num_channels is None:
                raise ValueError("num_channels: expected a number for a parameter per channel")
            shape = (num_channels,)
        value = torch.empty(shape, device=device, dtype=dtype)
        module.register_parameter(name, torch.nn.Parameter(value))
    if learned:
        module.register_load_state_dict_pre_hook(_reshape_learned)
    return learned


def _reshape_learned(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Takes a single value of a checkpoint that has no dimension."""
    for name in module.learned:
        key = prefix + name
        if key in state and state[key].dim() == 0:
            state[key] = state[key].reshape(1)


def reset_learned(module: Any, row: Variant | Activation) -> None:
    for name in module.learned:
        torch.nn.init.constant_(getattr(module, name), row.parameters[name])


def with_learned(module: Any) -> dict[str, Any]:
    """The options of a call, with what is learned."""
    if not module.learned:
        options: dict[str, Any] = module.options
        return options
    return {**module.options, **{name: getattr(module, name) for name in module.learned}}


def kinds_of_learned(module: Any) -> dict[str, str]:
    channels = (module.num_channels,)
    return {
        name: "per_channel" if getattr(module, name).shape == channels else "learned"
        for name in module.learned
    }


class GatedActivation(torch.nn.Module):
    """f(gate) * g(up) as a module; see `fused_acts.gated`.

    Args:
        variant: one of `fused_acts.variants()`.
        layout, dim: where a packed input holds gate and up; for packed inputs only.
        num_channels: cols, for a parameter of f that is learned per channel.
        **options: the options of the variant, as `fused_acts.gated` takes them, without tensors.
            A parameter of the variant, such as beta, may also be "learned", one value for all
            channels, or "per_channel"; it is then a Parameter of that name that starts at the
            default value. save="fp8_block128" keeps gate and up in eight bits.
        device, dtype: of that Parameter.

    Shapes: (gate, up) with [..., cols] each, or one packed [..., 2 * cols], to [..., cols].

    Raises ValueError for an unknown variant or layout or without num_channels where it is needed,
    TypeError for an option that the variant does not have.
    """

    def __init__(
        self,
        variant: VariantName | OwnName = "swiglu",
        layout: Layout = "gate_up",
        *,
        dim: int = -1,
        num_channels: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        dim = _checks.integer("dim", dim)
        index = index_of("variant", variant, VARIANT_INDEX)
        self.variant, self.layout, self.dim = variant, layout, dim
        self._definition = DEFINITIONS.get(index)
        self.num_channels = num_channels
        row = VARIANTS[variant]
        self.learned = register_learned(self, row, options, num_channels, device, dtype)
        check_options(index, layout, options)
        self.options = options
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives what is learned the value that it starts at."""
        reset_learned(self, VARIANTS[self.variant])

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        options = with_learned(self)
        if self.dim != -1:
            options = {**options, "dim": self.dim}
        return functional.gated(gate, up, variant=self.variant, layout=self.layout, **options)

    def extra_repr(self) -> str:
        parts: dict[str, Any] = {"variant": self.variant, "layout": self.layout, **self.options}
        if self.dim != -1:
            parts["dim"] = self.dim
        parts |= kinds_of_learned(self)
        if self.num_channels is not None:
            parts["num_channels"] = self.num_channels
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


class GatedLinear(torch.nn.Module):
    """(x V + c) * act(x W + b), the gated linear unit of a layer of its own.

    One product with the packed weight and one kernel that adds both biases. From Dauphin et al.
    2017, arXiv:1612.08083.

    Args:
        in_features, out_features: the last dimension of the input and the output.
        variant: one of `fused_acts.variants()`.
        bias: whether there are biases b and c.
        layout: where weight and bias hold gate (W, b) and up (V, c), see `fused_acts.gated`.
        device, dtype: of the parameters.
        **options: numbers and names, as `fused_acts.gated` takes them. save="fp8_block128" keeps
            gate and up in eight bits for the backward pass.

    weight is [2 * out_features, in_features] and bias [2 * out_features], as of nn.Linear, and so
    are their first values. Shapes: [..., in_features] to [..., out_features].

    Raises ValueError for an unknown variant or layout, TypeError for an option that the variant
    does not have.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        variant: VariantName | OwnName = "glu",
        bias: bool = True,
        *,
        layout: Layout = "gate_up",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        index = index_of("variant", variant, VARIANT_INDEX)
        check_options(index, layout, options)
        self._definition = DEFINITIONS.get(index)
        if out_features % options.get("block", 1):
            raise ValueError(
                f"block: expected a divisor of out_features, {out_features}, got {options['block']}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.variant, self.layout, self.options = variant, layout, options
        linear = torch.nn.Linear(in_features, 2 * out_features, bias, device, dtype)
        self.weight, self.bias = linear.weight, linear.bias

    def reset_parameters(self) -> None:
        """Gives weight and bias first values anew."""
        torch.nn.Linear.reset_parameters(self)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.linear(x, self.weight)
        options = self.options if self.bias is None else {**self.options, "bias": self.bias}
        return functional.gated(hidden, variant=self.variant, layout=self.layout, **options)

    def extra_repr(self) -> str:
        parts = {"variant": self.variant, "bias": self.bias is not None, "layout": self.layout}
        shown = [f"{name}={value!r}" for name, value in {**parts, **self.options}.items()]
        return ", ".join([str(self.in_features), str(self.out_features), *shown])
