"""torch.nn's own activations, with their arguments, attributes and state, whose forward is the
library's kernel. They allocate their output: inplace=True is refused."""

from torch import Tensor, nn

from fused_acts import functional
from fused_acts._call import unknown


class _Fused(nn.Module):
    """Comes before a class of torch.nn in its subclasses: the forward is that of a row."""

    _row: str
    _options: tuple[str, ...] = ()  # attributes that are options

    def forward(self, input: Tensor) -> Tensor:
        options = {name: getattr(self, name) for name in self._options}
        return functional.FUNCTIONS[self._row](input, **options)


class _OutOfPlace(_Fused):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__(_not_inplace(inplace))


def _not_inplace(inplace: bool) -> bool:
    if inplace:
        raise ValueError("inplace: expected False, got True; call the function with out= instead")
    return inplace


class Sigmoid(_Fused, nn.Sigmoid):
    """torch.nn.Sigmoid by `fused_acts.sigmoid`."""

    _row = "sigmoid"


class Tanh(_Fused, nn.Tanh):
    """torch.nn.Tanh by `fused_acts.tanh`."""

    _row = "tanh"


class ReLU(_OutOfPlace, nn.ReLU):
    """torch.nn.ReLU by `fused_acts.relu`. Raises ValueError for inplace=True."""

    _row = "relu"


class LeakyReLU(_Fused, nn.LeakyReLU):
    """torch.nn.LeakyReLU by `fused_acts.leaky_relu`. Raises ValueError for inplace=True."""

    _row = "leaky_relu"
    _options = ("negative_slope",)

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__(negative_slope, _not_inplace(inplace))


class ELU(_Fused, nn.ELU):
    """torch.nn.ELU by `fused_acts.elu`. Raises ValueError for inplace=True."""

    _row = "elu"
    _options = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha, _not_inplace(inplace))


class SiLU(_OutOfPlace, nn.SiLU):
    """torch.nn.SiLU by `fused_acts.silu`. Raises ValueError for inplace=True."""

    _row = "swish"


class Mish(_OutOfPlace, nn.Mish):
    """torch.nn.Mish by `fused_acts.mish`. Raises ValueError for inplace=True."""

    _row = "mish"


class ReLU6(_OutOfPlace, nn.ReLU6):
    """torch.nn.ReLU6 by `fused_acts.relu6`. Raises ValueError for inplace=True."""

    _row = "relu6"


class Hardsigmoid(_OutOfPlace, nn.Hardsigmoid):
    """torch.nn.Hardsigmoid by `fused_acts.hardsigmoid`. Raises ValueError for inplace=True."""

    _row = "hardsigmoid"


class Hardswish(_OutOfPlace, nn.Hardswish):
    """torch.nn.Hardswish by `fused_acts.hardswish`. Raises ValueError for inplace=True."""

    _row = "hardswish"


class Softsign(_Fused, nn.Softsign):
    """torch.nn.Softsign by `fused_acts.softsign`."""

    _row = "softsign"


class GELU(_Fused, nn.GELU):
    """torch.nn.GELU by `fused_acts.gelu`, or with approximate="tanh" `fused_acts.gelu_tanh`.

    Raises ValueError for another approximation.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise unknown("approximate", approximate, ("none", "tanh"))
        super().__init__(approximate)

    def forward(self, input: Tensor) -> Tensor:
        return functional.activation(input, "gelu" if self.approximate == "none" else "gelu_tanh")


class Softplus(_Fused, nn.Softplus):
    """torch.nn.Softplus by `fused_acts.softplus`.

    It is computed everywhere, also above the threshold from which torch's is linear; from the usual
    one, 20, upwards they differ by 1e-10 of the value. Raises ValueError for a lower one.
    """

    _row = "softplus"
    _options = ("beta",)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        if threshold < 20.0:
            raise ValueError(f"threshold: expected 20 or more, got {threshold}")
        super().__init__(beta, threshold)


class PReLU(nn.PReLU):
    """torch.nn.PReLU by `fused_acts.prelu`, its channels in dimension 1 as there.

    The kernel has them in the last dimension: of [rows, cols] they are, anything else is moved, in
    copies. Activation("prelu", slope="per_channel") has them there always.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.numel() == 1 or input.dim() <= 2:
            return functional.activation(input, "prelu", slope=self.weight)
        out = functional.activation(input.movedim(1, -1), "prelu", slope=self.weight)
        return out.movedim(-1, 1).contiguous()
