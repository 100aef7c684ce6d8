"""The feed-forward blocks, with a gate and without."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_acts._autograd.blocks import Recompute, check_kept
from fused_acts._autograd.ffn import Inputs, block
from fused_acts._call import ACTIVATION_INDEX, COMPOSED, VARIANT_INDEX, Save, index_of, resolve
from fused_acts._names import ActivationName, OwnName, VariantName
from fused_acts._rows import DEFINITIONS
from fused_acts._run import run
from fused_acts.nn.gated import check_options

Weights = tuple[Tensor, Tensor | None]  # weight and bias


class _Block(torch.nn.Module):
    """A row of the tables between projections of the input and down_proj."""

    down_proj: torch.nn.Linear

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        row: int,
        recompute: Recompute,
        save: Save | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        check_kept(recompute, save)
        if save is not None:
            options = {**options, "save": save}
        check_options(row, "gate_up", options)
        if "inplace_backward" in options:
            kind = type(self).__name__
            raise TypeError(f"inplace_backward: {kind} has no such option; it works in place")
        self.d_model, self.d_ff = d_model, d_ff
        self._definition = DEFINITIONS.get(row)
        self.recompute, self.options = recompute, options

    @property
    def projections(self) -> tuple[torch.nn.Linear, ...]:
        raise NotImplementedError

    @property
    def _row(self) -> int:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Gives the projections first values anew."""
        for projection in (*self.projections, self.down_proj):
            if hasattr(projection, "reset_parameters"):  # not all that may take its place have it
                projection.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != self.d_model:
            raise ValueError(f"x: expected [..., {self.d_model}], got {tuple(x.shape)}")
        projections, down_proj = self.projections, self.down_proj
        weights = [plain_weights(linear) for linear in projections]
        down = plain_weights(down_proj)
        row = self._row
        if down is not None and None not in weights and row not in COMPOSED:
            return fused(row, self.options, self.recompute, x, weights, down)
        gate, *up = [projection(x) for projection in projections]
        product = run(gate, up[0] if up else None, row, "gate_up", None, self.options)
        y: Tensor = down_proj(product)
        return y


def fused(
    row: int,
    options: dict[str, Any],
    recompute: Recompute,
    x: Tensor,
    projections: Sequence[Any],
    down: Weights,
) -> Tensor:
    """The block of bare weights, in one Function. projections: Weights of gate and up, or of one
    for both, or of up for an activation."""
    matrices, biases = zip(*projections, strict=True)
    for bias in biases:
        if bias is not None:  # of which the call is only to know that there is one
            options = {**options, "bias": bias}
    call = resolve(row, "gate_up", options)
    return block(call, recompute, Inputs(x, *down, biases, matrices))


class GatedFFN(_Block):
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
        save: "fp8_block128": gate and up are kept in eight bits, as by `fused_acts.gated`, 2.06
            bytes for the two of them in place of 4; a product that is computed again is of these.
        **options: numbers and names, as `fused_acts.gated` takes them.

    The projections are nn.Linear modules. Where one of them has hooks, was replaced (LoRA,
    quantisation) or has weights that are no plain tensors, they are called as modules, and what is
    kept is what they and the activation keep. load_state_dict takes packed weights and separate
    ones, under the names gate_up_proj; gate_proj, up_proj, down_proj; w1, w3, w2; wi_0, wi_1, wo.

    On the CPU without gradients the block goes through many tokens 1024 at a time.

    Shapes: [..., d_model] to [..., d_model].

    Raises ValueError for an unknown variant, recompute or save, for save with recompute="all" and
    for an input of another width, TypeError for an option that the variant does not have.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        variant: VariantName | OwnName = "swiglu",
        bias: bool = False,
        packed: bool = True,
        recompute: Recompute = "product",
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: Save | None = None,
        **options: Any,
    ) -> None:
        index = index_of("variant", variant, VARIANT_INDEX)
        super().__init__(d_model, d_ff, index, recompute, save, options)
        self.variant = variant

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

    @property
    def _row(self) -> int:
        return VARIANT_INDEX[self.variant]

    def extra_repr(self) -> str:
        parts = {"variant": self.variant, "recompute": self.recompute, **self.options}
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


class FFN(_Block):
    """down(f(up(x))): the feed-forward block without a gate. From Vaswani et al. 2017,
    arXiv:1706.03762.

    The bias of up is added in the kernel of f.

    Args:
        d_model, d_ff: the width of the block's input and output, and of up.
        activation: one of `fused_acts.activations()`, or silu, which is swish.
        bias: whether the projections, `up_proj` and `down_proj`, have biases.
        recompute: what is kept for the backward pass, and what it computes again. "none": the
            input, up and f(up), d_model + 2 * d_ff elements a token. "product": f(up) is computed
            again by the kernel of the gradients; d_model + d_ff. "all": up is too, for another
            matrix product; d_model.
        device, dtype: of the parameters.
        save: "fp8_block128": up is kept in eight bits, as by `fused_acts.activation`; an f(up) that
            is computed again is of these.
        **options: the parameter of f as a number, where it has one.

    The projections are nn.Linear modules, called as modules where they are more than a product, as
    in GatedFFN. load_state_dict takes their weights under the names up_proj, down_proj; fc1, fc2
    (ViT, OPT); c_fc, c_proj (GPT-2, whose matrices are transposed); dense_h_to_4h, dense_4h_to_h
    (GPT-NeoX, Falcon); wi, wo (T5).

    On the CPU without gradients the block goes through many tokens 1024 at a time.

    Shapes: [..., d_model] to [..., d_model].

    Raises ValueError for an unknown activation, recompute or save, for save with recompute="all"
    and for an input of another width, TypeError for an option that the activation does not have.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        activation: ActivationName | OwnName = "gelu_tanh",
        bias: bool = True,
        recompute: Recompute = "product",
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: Save | None = None,
        **options: Any,
    ) -> None:
        index = index_of("activation", activation, ACTIVATION_INDEX)
        super().__init__(d_model, d_ff, index, recompute, save, options)
        self.activation = activation
        self.up_proj = torch.nn.Linear(d_model, d_ff, bias, device, dtype)
        self.down_proj = torch.nn.Linear(d_ff, d_model, bias, device, dtype)
        self.register_load_state_dict_pre_hook(_rename_ungated)  # type: ignore[no-untyped-call]

    @property
    def projections(self) -> tuple[torch.nn.Linear, ...]:
        """Of up."""
        found: Any = self._modules
        return (found["up_proj"],)

    @property
    def _row(self) -> int:
        return ACTIVATION_INDEX[self.activation]

    def extra_repr(self) -> str:
        parts = {"activation": self.activation, "recompute": self.recompute, **self.options}
        return ", ".join(f"{name}={value!r}" for name, value in parts.items())


def plain_weights(
    linear: torch.nn.Module, kind: type[torch.nn.Module] = torch.nn.Linear
) -> Weights | None:
    """Of a module of this kind, where to call it is nothing more than a product with them."""
    if (
        type(linear) is not kind
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
# Without a gate: ViT and OPT, GPT-2, GPT-NeoX and Falcon, T5.
_UNGATED_NAMES = ("up_proj", "down_proj")
_OTHER_UNGATED_NAMES = (
    ("fc1", "fc2"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("wi", "wo"),
)


def _take(
    state: dict[str, Tensor], prefix: str, kind: str, names: Any, other_names: Any
) -> list[str]:
    """Gives what has another name its own; returns all own keys."""
    own = [f"{prefix}{name}.{kind}" for name in names]
    for others in other_names:
        for key, name in zip(own, others, strict=True):
            if (other := f"{prefix}{name}.{kind}") in state and key not in state:
                state[key] = state.pop(other)
    return own


def _rename_weights(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Gives the weights of a checkpoint the names, and the packing, that they have here."""
    packed = len(module.projections) == 1
    for kind in ("weight", "bias"):
        gate, up = _take(state, prefix, kind, _NAMES, _OTHER_NAMES)[:2]
        both = f"{prefix}gate_up_proj.{kind}"
        if packed and both not in state and gate in state and up in state:
            state[both] = torch.cat((state.pop(gate), state.pop(up)))
        elif not packed and both in state and gate not in state and up not in state:
            state[gate], state[up] = state.pop(both).chunk(2)


def _rename_ungated(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, rows in (("c_fc", module.d_ff), ("c_proj", module.d_model)):
        if (weight := state.get(key := f"{prefix}{name}.weight")) is not None:
            if module.d_ff == module.d_model:
                raise ValueError(
                    f"{key}: expected no square matrix, which may be transposed or not"
                )
            state[key] = weight if weight.shape[0] == rows else weight.t()
    for kind in ("weight", "bias"):
        _take(state, prefix, kind, _UNGATED_NAMES, _OTHER_UNGATED_NAMES)
