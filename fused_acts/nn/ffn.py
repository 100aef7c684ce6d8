"""The feed-forward block."""

from typing import Any

import torch
from torch import Tensor

from fused_acts import functional
from fused_acts._autograd.ffn import RECOMPUTE, Inputs, Recompute, gated_ffn
from fused_acts._call import VARIANT_INDEX, index_of, resolve, unknown
from fused_acts._names import VariantName
from fused_acts.nn.gated import check_options


class GatedFFN(torch.nn.Module):
    """down(f(gate(x)) * g(up(x))): the feed-forward block of a transformer. From Shazeer 2020,
    arXiv:2002.05202.

    Args:
        d_model, d_ff: the width of the block's input and output, and of gate and up.
        variant: one of `fused_acts.variants()`.
        bias: whether the projections have biases.
        packed: whether gate and up have one weight, `gate_up_proj` [2 * d_ff, d_model] with gate
            first, and so one matrix product, or two, `gate_proj` and `up_proj`.
        recompute: what is kept for the backward pass, and what it computes again. "none": the
            input, gate, up and their product, d_model + 3 * d_ff elements a token. "product": the
            product is computed again by the kernel of the gradients; d_model + 2 * d_ff. "all":
            gate and up are too, for another matrix product; d_model.
        device, dtype: of the parameters.
        **options: numbers and names, as `fused_acts.gated` takes them.

    The projections are nn.Linear modules. Where one of them has hooks, was replaced (LoRA,
    quantisation) or has weights that are no plain tensors, they are called as modules, and what is
    kept is what they and the activation keep. load_state_dict takes packed weights and separate
    ones, under the names gate_up_proj; gate_proj, up_proj, down_proj; w1, w3, w2; wi_0, wi_1, wo.

    On the CPU without gradients the block goes through many tokens 1024 at a time.

    Shapes: [..., d_model] to [..., d_model].

    Raises ValueError for an unknown variant or recompute or an input of another width, TypeError
    for an option that the variant does not have.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        variant: VariantName = "swiglu",
        bias: bool = False,
        packed: bool = True,
        recompute: Recompute = "product",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if recompute not in RECOMPUTE:
            raise unknown("recompute", recompute, RECOMPUTE)
        check_options(index_of("variant", variant, VARIANT_INDEX), "gate_up", options)
        if "inplace_backward" in options:
            raise TypeError("inplace_backward: GatedFFN has no such option; it works in place")
        self.d_model, self.d_ff = d_model, d_ff
        self.variant, self.recompute, self.options = variant, recompute, options

        def linear(width: int, out: int) -> torch.nn.Linear:
            return torch.nn.Linear(width, out, bias, device, dtype)

        if packed:
            self.gate_up_proj = linear(d_model, 2 * d_ff)
        else:
            self.gate_proj, self.up_proj = linear(d_model, d_ff), linear(d_model, d_ff)
        self.down_proj = linear(d_ff, d_model)
        self.register_load_state_dict_pre_hook(_rename_weights)  # type: ignore[no-untyped-call]

    @property
    def projections(self) -> tuple[torch.nn.Linear, ...]:
        """Of gate and up."""
        found: Any = self._modules  # for hasattr takes longer than a small product
        if "gate_up_proj" in found:
            return (found["gate_up_proj"],)
        return found["gate_proj"], found["up_proj"]

    def reset_parameters(self) -> None:
        """Gives the projections first values anew."""
        for projection in (*self.projections, self.down_proj):
            if hasattr(projection, "reset_parameters"):  # not all that may take its place have it
                projection.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != self.d_model:
            raise ValueError(f"x: expected [..., {self.d_model}], got {tuple(x.shape)}")
        projections, down_proj = self.projections, self.down_proj
        weights = [_weights(linear) for linear in projections]
        down = _weights(down_proj)
        if down is None or None in weights:
            hidden = [projection(x) for projection in projections]
            y: Tensor = down_proj(functional.gated(*hidden, variant=self.variant, **self.options))
            return y
        matrices, biases = zip(*weights, strict=True)
        options = self.options
        for bias in biases:
            if bias is not None:  # of which the call is only to know that there is one
                options = {**self.options, "gate_bias": bias}
        call = resolve(VARIANT_INDEX[self.variant], "gate_up", options)
        return gated_ffn(call, self.recompute, Inputs(x, *down, biases, matrices))

    def extra_repr(self) -> str:
        parts = {"variant": self.variant, "recompute": self.recompute, **self.options}
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


def _weights(linear: torch.nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias, where to call it is nothing more than a product with them."""
    if (
        type(linear) is not torch.nn.Linear
        or linear._forward_hooks
        or linear._forward_pre_hooks
        or linear._backward_hooks
        or linear._backward_pre_hooks
        or "forward" in linear.__dict__
    ):
        return None
    found: Any = linear._parameters
    if "weight" in found and "bias" in found:
        weight, bias = found["weight"], found["bias"]  # nn.Module takes ten times as long
    else:  # plain tensors in their place, as FSDP has them
        weight, bias = linear.weight, linear.bias
    return (weight, bias) if type(weight) in (torch.nn.Parameter, Tensor) else None


# Of gate, up and down in the checkpoints of others: LLaMA's own, T5 v1.1.
_NAMES = ("gate_proj", "up_proj", "down_proj")
_OTHER_NAMES = (("w1", "w3", "w2"), ("wi_0", "wi_1", "wo"))


def _rename_weights(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Gives the weights of a checkpoint the names, and the packing, that they have here."""
    packed = len(module.projections) == 1
    for kind in ("weight", "bias"):
        own = [f"{prefix}{name}.{kind}" for name in _NAMES]
        gate, up, both = own[0], own[1], f"{prefix}gate_up_proj.{kind}"
        for others in _OTHER_NAMES:
            for key, name in zip(own, others, strict=True):
                if (other := f"{prefix}{name}.{kind}") in state and key not in state:
                    state[key] = state.pop(other)
        if packed and both not in state and gate in state and up in state:
            state[both] = torch.cat((state.pop(gate), state.pop(up)))
        elif not packed and both in state and gate not in state and up not in state:
            state[gate], state[up] = state.pop(both).chunk(2)
