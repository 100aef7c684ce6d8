"""Functions of groups of columns and of whole rows, as modules."""

from torch import Tensor, nn

from fused_acts import _checks, functional


class Maxout(nn.Module):
    """The largest of each group of `pieces` neighbours; see `fused_acts.maxout`.

    From Goodfellow et al. 2013, "Maxout Networks", https://arxiv.org/abs/1302.4389, where it comes
    behind a projection to cols * pieces features.

    Args:
        pieces: how many neighbours make a group, 1 to 256.
        dim: the dimension that is reduced.

    Shapes: [..., cols * pieces] to [..., cols] for the last dimension.

    Raises TypeError for a number that is no integer, ValueError for pieces out of range.
    """

    def __init__(self, pieces: int, dim: int = -1) -> None:
        super().__init__()
        self.pieces, self.dim = _checks.integer("pieces", pieces), _checks.integer("dim", dim)
        _checks.check_pieces(self.pieces)

    def forward(self, x: Tensor) -> Tensor:
        return functional.maxout(x, self.pieces, self.dim)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}, dim={self.dim}"


class SoftmaxGLU(nn.Module):
    """softmax(gate) * up, the softmax over the last dimension; see `fused_acts.softmax_glu`.

    Shapes: (gate, up) with [..., cols] each to [..., cols].
    """

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return functional.softmax_glu(gate, up)
