"""A mixture of experts: feed-forward blocks with a gate, of which each token goes through some."""

import math
from typing import Any

import torch
from torch import Tensor

from fused_acts._autograd.blocks import Recompute, check_kept
from fused_acts._autograd.experts import Inputs, experts
from fused_acts._call import VARIANT_INDEX, Save, index_of, resolve
from fused_acts._checks import check_compiled
from fused_acts._layouts import Layout
from fused_acts._names import OwnName, VariantName
from fused_acts._rows import DEFINITIONS
from fused_acts.nn import experts_checkpoints as checkpoints
from fused_acts.nn.gated import check_options

# Options of the unit that the block has other ways for, or none.
_OWN = {"inplace_backward", "weight", "padding", "rounding", "offs", "counts", "row_expert"}


class GatedExperts(torch.nn.Module):
    """y[t] = sum over j of weights[t, j] * down[e](f(gate[e](x[t])) * g(up[e](x[t]))), with the
    expert e = ids[t, j].

    The experts of a mixture (Shazeer et al. 2017, arXiv:1701.06538), behind a router of your own.
    The tokens are sorted by expert, torch's grouped_mm multiplies them by the matrices, and the
    unit's kernel multiplies by the weights of the router, in the same rounding.

    Args:
        num_experts: how many there are.
        d_model, d_ff: the width of their input and output, and of gate and up.
        variant: one of `fused_acts.variants()`.
        bias: whether there are `gate_up_proj_bias` [num_experts, 2 * d_ff] and `down_proj_bias`
            [num_experts, d_model].
        layout: where the rows of `gate_up_proj` hold gate and up, see `fused_acts.gated`.
        recompute: what is kept for the backward pass, in elements a token that goes to k experts.
            "none": d_model + 3 * k * d_ff. "product", where the kernel of the gradients computes
            f(gate) * g(up) again: d_model + 2 * k * d_ff. "all", where another matrix product
            computes gate and up again too: d_model. And the order of the tokens, 8 * k bytes.
        device, dtype: of the parameters.
        save: "fp8_block128": gate and up are kept in eight bits, as by `fused_acts.gated`, 2.06
            bytes for the two of them in place of 4; a product that is computed again is of these.
        **options: numbers and names, as `fused_acts.gated` takes them.

    The parameters are `gate_up_proj` [num_experts, 2 * d_ff, d_model] and `down_proj`
    [num_experts, d_model, d_ff], the names and shapes of Hugging Face transformers.
    load_state_dict also takes them transposed ([num_experts, d_model, 2 * d_ff] and
    [num_experts, d_ff, d_model], as gpt-oss has them), told apart by their shapes, and apart for
    each expert, `0.gate_proj.weight`, `0.up_proj.weight`, `0.down_proj.weight` and so on, or
    `w1`, `w3`, `w2`; `export_state_dict` gives them so.

    An expert that all share is a GatedFFN beside these: experts(x, ids, weights) + shared(x).

    Shapes: x [..., d_model], expert_ids and expert_weights [tokens, k] or [..., k], to
    [..., d_model]. An id outside of 0 to num_experts - 1 is of no expert here and adds 0. The
    weights have the dtype of x or float32. The ids are read by the device alone, but torch's
    grouped_mm waits for their counts where it has no kernel of its own: on CUDA in other dtypes
    than bfloat16, before compute capability 9.0, and here for rows that are no multiple of 16
    bytes.

    Raises ValueError for an unknown variant, layout, recompute or save, for save with
    recompute="all" and for other shapes, TypeError for an option that the variant does not have and
    for ids that are no integers.
    """

    gate_up_proj: Tensor
    down_proj: Tensor
    gate_up_proj_bias: Tensor | None
    down_proj_bias: Tensor | None

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        d_ff: int,
        variant: VariantName | OwnName = "swiglu",
        bias: bool = False,
        layout: Layout = "gate_up",
        recompute: Recompute = "product",
        device: Any = None,
        dtype: torch.dtype | None = None,
        save: Save | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._row = index_of("variant", variant, VARIANT_INDEX)
        self._definition = DEFINITIONS.get(self._row)
        check_kept(recompute, save)
        if save is not None:
            options = {**options, "save": save}
        for name in {*options} & _OWN:
            raise TypeError(f"{name}: GatedExperts has no such option")
        check_options(self._row, layout, options)
        if num_experts < 1:
            raise ValueError(f"num_experts: expected at least 1, got {num_experts}")
        self.num_experts, self.d_model, self.d_ff = num_experts, d_model, d_ff
        self.variant, self.layout, self.recompute = variant, layout, recompute
        self.options = options

        def parameter(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.empty(num_experts, *shape, device=device, dtype=dtype))

        self.gate_up_proj = parameter(2 * d_ff, d_model)
        self.down_proj = parameter(d_model, d_ff)
        self.register_parameter("gate_up_proj_bias", parameter(2 * d_ff) if bias else None)
        self.register_parameter("down_proj_bias", parameter(d_model) if bias else None)
        self.register_load_state_dict_pre_hook(checkpoints.take)  # type: ignore[no-untyped-call]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gives the experts first values anew, each those of an nn.Linear."""
        for matrix, bias in (
            (self.gate_up_proj, self.gate_up_proj_bias),
            (self.down_proj, self.down_proj_bias),
        ):
            bound = matrix.shape[-1] ** -0.5
            for values in (matrix, bias):
                if values is not None:
                    torch.nn.init.uniform_(values, -bound, bound)

    def _tensors(self) -> Any:
        return self.gate_up_proj, self.gate_up_proj_bias, self.down_proj, self.down_proj_bias

    def forward(self, x: Tensor, expert_ids: Tensor, expert_weights: Tensor) -> Tensor:
        tokens, ids, weights = self._flat(x, expert_ids, expert_weights)
        check_compiled("variant", self._row)
        call = resolve(self._row, self.layout, self.options)
        y = experts(call, self.recompute, Inputs(tokens, *self._tensors()), ids, weights)
        return y if x.dim() == 2 else y.view(x.shape)  # FSDP2 would warn of a view

    def _flat(self, x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[tokens, d_model], [tokens, k] and [tokens, k]."""
        if x.dim() == 0 or x.shape[-1] != self.d_model:
            raise ValueError(f"x: expected [..., {self.d_model}], got {tuple(x.shape)}")
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"expert_ids: expected integers, got {ids.dtype}")
        tokens = x.reshape(-1, self.d_model)
        if ids.dim() == 0 or math.prod(ids.shape[:-1]) != tokens.shape[0]:
            raise ValueError(
                f"expert_ids: expected [tokens, k] for {tokens.shape[0]} tokens, got "
                f"{tuple(ids.shape)}"
            )
        if weights.shape != ids.shape:
            raise ValueError(
                f"expert_weights: expected the shape of expert_ids, {tuple(ids.shape)}, got "
                f"{tuple(weights.shape)}"
            )
        each = tokens.shape[0], ids.shape[-1]
        return tokens, ids.reshape(each), weights.reshape(each)

    def export_state_dict(
        self,
        form: checkpoints.Form = "separate",
        *,
        names: tuple[str, str, str] = checkpoints.NAMES,
        prefix: str = "",
    ) -> dict[str, Tensor]:
        """The parameters as checkpoints of others have them; load_state_dict takes them all.

        Args:
            form: "separate", `{prefix}{expert}.{name}.weight` and `.bias` of each expert's gate,
                up and down; "transposed", the own names with the matrices transposed; "packed", as
                state_dict() has them.
            names: of gate, up and down with "separate".

        Raises ValueError for another form.
        """
        return checkpoints.give(self, form, names, prefix)

    def extra_repr(self) -> str:
        parts: dict[str, Any] = {
            "variant": self.variant,
            "bias": self.gate_up_proj_bias is not None,
        }
        parts |= {"layout": self.layout, "recompute": self.recompute, **self.options}
        sizes = f"{self.num_experts}, {self.d_model}, {self.d_ff}"
        return ", ".join([sizes, *(f"{name}={value!r}" for name, value in parts.items())])
