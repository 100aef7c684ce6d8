"""Modules that are a chain: projections, an activation, gated or not, and what comes after it.

Of the MLPs without a gate in transformers models, and of timm's and diffusers' building blocks.
Whether a module is such a chain is tried, see _trial.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fused_acts._autograd.context import promoted
from fused_acts._call import ACTIVATION_INDEX
from fused_acts.functional import activation
from fused_acts.integrations import _calls, _trial
from fused_acts.integrations._calls import UNITS, name_of, unit_of
from fused_acts.integrations._classes import own_forward
from fused_acts.nn.ffn import Weights, fused, plain_weights


class Chain(NamedTuple):
    """The attributes of a module that computes after(down(before(f(gate(x)) * up(x)))).

    gate may make both; or there is no gate, and it is before(f(up(x))). Its modules are these and
    no others.
    """

    projections: tuple[str, ...]
    activation: str | None  # None: as the class of the module says
    before: tuple[str, ...] = ()
    down: str | None = None
    after: tuple[str, ...] = ()
    casts: bool = False  # whether the product takes the dtype of the weight of down

    def parts(self) -> tuple[str, ...]:
        """The names of all modules but the activation, as the numbers go through them."""
        down = () if self.down is None else (self.down,)
        return *self.projections, *self.before, *down, *self.after


CHAINS = (
    Chain(("fc1",), "activation_fn", down="fc2"),  # ViT, CLIP, SigLIP, DINOv2, Phi
    Chain(("c_fc",), "act", down="c_proj", after=("dropout",)),  # GPT-2, GPTBigCode
    Chain(("c_fc",), "act", down="c_proj"),  # Starcoder2
    Chain(("fc_in",), "act", down="fc_out", after=("dropout",)),  # GPT-J, CodeGen
    Chain(("dense_h_to_4h",), "act", down="dense_4h_to_h"),  # GPT-NeoX, Falcon
    Chain(("up_proj",), "act_fn", down="down_proj"),  # Nemotron, Arcee
    Chain(("wi",), "act", ("dropout",), "wo", casts=True),  # T5
    Chain(("lin1",), "activation", down="lin2", after=("dropout",)),  # DistilBERT
    Chain(("dense",), "intermediate_act_fn"),  # BERT, RoBERTa, ELECTRA
    Chain(("fc1",), "act", ("drop1", "norm"), "fc2", ("drop2",)),  # timm's Mlp, GluMlp
    Chain(("fc1_g", "fc1_x"), "act", ("drop1", "norm"), "fc2", ("drop2",)),  # timm's SwiGLU
    Chain(("proj",), "activation"),  # diffusers' SwiGLU, LinearActivation
    Chain(("proj",), None),  # diffusers' GEGLU, GELU, ApproximateGELU
)


def chain_of(module: nn.Module) -> Chain | None:
    for chain in CHAINS:
        if module._modules.keys() - {chain.activation} != set(chain.parts()):
            continue
        own = chain.activation is None
        if name_of(module) in UNITS if own else hasattr(module, str(chain.activation)):
            return chain
    return None


def unit_of_chain(module: nn.Module, chain: Chain) -> str:
    """Of its activation, were there a gate."""
    if chain.activation is None:
        return unit_of(module, hooked=False)
    return unit_of(getattr(module, chain.activation))


def alone(variant: str, chain: Chain) -> str | None:
    """The activation of a chain that may have no gate."""
    return _calls.alone(variant) if len(chain.projections) == 1 else None


def gated_chain(
    module: Any, *args: Any, chain: Chain, gate: Callable[..., Tensor], **kwargs: Any
) -> Any:
    if len(args) + len(kwargs) != 1:
        return own_forward(module)(*args, **kwargs)
    (x,) = (*args, *kwargs.values())
    hidden = [getattr(module, name)(x) for name in chain.projections]
    return _rest(module, chain, gate(*(promoted(*hidden) if len(hidden) == 2 else hidden)))


def ungated_chain(
    module: Any, *args: Any, chain: Chain, name: str, definition: Any = None, **kwargs: Any
) -> Any:
    """definition: of an activation of one's own, to be pickled with this."""
    if len(args) + len(kwargs) != 1:
        return own_forward(module)(*args, **kwargs)
    (x,) = (*args, *kwargs.values())
    (projection,) = (getattr(module, part) for part in chain.projections)
    up = _weights(projection)
    if up is None:
        return _rest(module, chain, activation(projection(x), name))
    down = None if chain.down is None else _weights(getattr(module, chain.down))
    if down is None or up[0].dtype != down[0].dtype or not _all_idle(module, chain.before):
        weight, bias = up
        return _rest(module, chain, activation(linear(x, weight), name, bias))
    y = fused(ACTIVATION_INDEX[name], {}, "product", x, [up], down)
    return _through(module, chain.after, y)


def _rest(module: Any, chain: Chain, product: Tensor) -> Tensor:
    product = _through(module, chain.before, product)
    if chain.down is not None:
        down = getattr(module, chain.down)
        # T5 keeps this weight in float32 in models of 16 bits; one in int8 is quantised.
        if chain.casts and isinstance(down.weight, Tensor) and down.weight.dtype != torch.int8:
            product = product.to(down.weight.dtype)
        product = down(product)
    return _through(module, chain.after, product)


def _through(module: Any, names: tuple[str, ...], x: Tensor) -> Tensor:
    for name in names:
        x = getattr(module, name)(x)
    return x


def _weights(projection: nn.Module) -> Weights | None:
    """As of nn.Linear, [out, in]."""
    kind = type(projection)
    if f"{kind.__module__}.{kind.__qualname__}" != "transformers.pytorch_utils.Conv1D":
        return plain_weights(projection)
    found = plain_weights(projection, kind)
    return None if found is None else (found[0].t(), found[1])


def _all_idle(module: Any, names: tuple[str, ...]) -> bool:
    for part in (getattr(module, name) for name in names):
        drops = type(part) is nn.Dropout and part.training and part.p > 0
        hooked = part._forward_hooks or part._forward_pre_hooks
        if drops or hooked or type(part) not in (nn.Dropout, nn.Identity):
            return False
    return True


def small(
    module: nn.Module, chain: Chain, packed: bool, dtype: torch.dtype
) -> tuple[nn.Module, Tensor]:
    """The module with matrices in the place of its parts, and an input."""
    weights = dict.fromkeys(chain.projections, "JH" if packed else "IH")
    weights |= dict.fromkeys(chain.before, "II") | dict.fromkeys(chain.after, "HH")
    weights |= {} if chain.down is None else {chain.down: "HI"}
    made = _trial.small(module, weights, dtype)
    for name in chain.projections:
        projection: Any = getattr(made, name)
        projection.bias = nn.Parameter(projection.weight.detach().sum(-1))
    return made, _trial.rows(2, dtype).view(4, 16, 2)
