"""What is written with torch where the library has one function: what `bench activations` times."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_acts
from fused_acts import tables


@dataclass(frozen=True)
class Expression:
    """One function as it is written with torch."""

    text: str
    name: str
    kernels: int  # that torch's forward launches
    function: Callable[..., Tensor]  # of x and the others
    others: tuple[str, ...] = ()  # tensors: up and z of the shape of x, the rest [cols]
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def fused(self) -> Callable[..., Tensor]:
        """The library's function, of x and the others."""
        function: Callable[..., Tensor] = getattr(fused_acts, self.name)
        if not self.others and not self.numbers:
            return function
        names, numbers = self.others, self.numbers
        return lambda x, *others: function(x, **dict(zip(names, others, strict=True)), **numbers)

    def exact(self, x: Tensor, *others: Tensor) -> Tensor:
        """In the dtype of x."""
        given = {**dict(zip(self.others, others, strict=True)), **self.numbers}
        if self.name in fused_acts.activations():
            return fused_acts.reference.activation(x, self.name, **given)
        result: Tensor = getattr(fused_acts.reference, self.name)(x, **given)
        return result


def maxout(pieces: int) -> Iterator[Expression]:
    """torch's two ways: amax, whose gradient goes to all of equal maxima, and max."""

    def groups(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, pieces))

    text, numbers = f"x.unflatten(-1, (-1, {pieces}))", {"pieces": pieces}
    yield Expression(f"{text}.amax(-1)", "maxout", 1, lambda x: groups(x).amax(-1), numbers=numbers)
    yield Expression(
        f"{text}.max(-1)[0]", "maxout", 1, lambda x: groups(x).max(-1)[0], numbers=numbers
    )


EXPRESSIONS = (
    Expression("sigmoid(x)", "sigmoid", 1, torch.sigmoid),
    Expression("tanh(x)", "tanh", 1, torch.tanh),
    Expression("relu(x)", "relu", 1, F.relu),
    Expression("leaky_relu(x)", "leaky_relu", 1, F.leaky_relu),
    Expression("elu(x)", "elu", 1, F.elu),
    Expression("silu(x)", "swish", 1, F.silu),
    Expression("gelu(x)", "gelu", 1, F.gelu),
    Expression("gelu(x, 'tanh')", "gelu_tanh", 1, lambda x: F.gelu(x, approximate="tanh")),
    Expression("softplus(x)", "softplus", 1, F.softplus),
    Expression("mish(x)", "mish", 1, F.mish),
    Expression("prelu(x, slope)", "prelu", 1, F.prelu, ("slope",)),
    Expression("relu(x).square()", "squared_relu", 2, lambda x: F.relu(x).square()),
    Expression("x * sigmoid(1.702 * x)", "quick_gelu", 3, lambda x: x * torch.sigmoid(1.702 * x)),
    Expression(
        "x * sigmoid(beta * x)", "swish", 3, lambda x, beta: x * torch.sigmoid(beta * x), ("beta",)
    ),
    Expression("xielu(x)", "xielu", 9, partial(tables.xielu, alpha_p=0.8, alpha_n=0.8)),
    Expression("relu(x + bias)", "relu", 2, lambda x, bias: F.relu(x + bias), ("bias",)),
    Expression("silu(x + bias)", "swish", 2, lambda x, bias: F.silu(x + bias), ("bias",)),
    Expression("gelu(x + bias)", "gelu", 2, lambda x, bias: F.gelu(x + bias), ("bias",)),
    Expression(
        "gelu(x + bias, 'tanh')",
        "gelu_tanh",
        2,
        lambda x, bias: F.gelu(x + bias, approximate="tanh"),
        ("bias",),
    ),
    Expression(
        "prelu(x + bias, slope)",
        "prelu",
        2,
        lambda x, bias, slope: F.prelu(x + bias, slope),
        ("bias", "slope"),
    ),
    *maxout(2),
    *maxout(5),
    Expression(
        "softmax(x, -1) * up", "softmax_glu", 2, lambda x, up: torch.softmax(x, -1) * up, ("up",)
    ),
    Expression(
        "rms_norm(x, weight) * silu(z)",
        "rms_norm_gated",
        3,
        lambda x, z, weight: F.rms_norm(x, weight.shape, weight, 1e-6) * F.silu(z),
        ("z", "weight"),
    ),
)
QUICK = (
    "silu(x)",
    "gelu(x)",
    "x * sigmoid(beta * x)",
    "gelu(x + bias)",
    "prelu(x + bias, slope)",
    "x.unflatten(-1, (-1, 2)).amax(-1)",
    "softmax(x, -1) * up",
)
