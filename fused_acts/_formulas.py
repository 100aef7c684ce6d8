"""The functions of the tables in plain torch, and what torch has in their place.

Written apart from the C++, accurate in float64, and differentiable to any order; the gallery shows
the derivative that a docstring states.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(x: Tensor) -> Tensor:
    """x

    Derivative: 1
    """
    return x


def plus_one(x: Tensor) -> Tensor:
    """x + 1

    Derivative: 1
    """
    return x + 1


def relu(x: Tensor) -> Tensor:
    """max(x, 0), NaN stays NaN

    Derivative: 1 if x > 0 else 0
    """
    return torch.relu(x)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)^2

    Derivative: 2 * max(x, 0)
    """
    return torch.relu(x).square()


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), NaN stays NaN

    Derivative: 1 if 0 < x < 6 else 0
    """
    return torch.where(x >= 6, 6.0, torch.relu(x))


def fatrelu(x: Tensor, threshold: float | Tensor) -> Tensor:
    """x above the threshold, 0 elsewhere

    Derivative: 1 if x > threshold else 0
    """
    # 0, but not without a gradient by the threshold
    return torch.where(x <= threshold, threshold - threshold, x)


def leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    """x above 0, slope * x elsewhere

    Derivative: 1 if x > 0 else slope
    """
    return torch.where(x > 0, x, slope * x)


def elu(x: Tensor, alpha: float | Tensor) -> Tensor:
    """x above 0, alpha * (exp(x) - 1) elsewhere

    Derivative: 1 if x > 0 else alpha * exp(x)
    """
    # The other branch of a where must not overflow, or its gradient is inf * 0. At 0 the second
    # derivative is torch's, 0.
    expm1 = torch.where(x == 0, x, torch.expm1(torch.where(x > 0, 0.0, x)))
    return torch.where(x > 0, x, alpha * expm1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))

    Derivative: s * (1 - s), s = 1 / (1 + exp(-x))
    """
    return torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))

    Derivative: 1 - tanh(x)^2
    """
    return torch.tanh(x)


def hardsigmoid(x: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6

    Derivative: 1 / 6 if abs(x) < 3 else 0
    """
    # torch's own has no second derivative, and a first one of float32.
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (x + 3) / 6))


def hardswish(x: Tensor) -> Tensor:
    """x * min(max(x + 3, 0), 6) / 6

    Derivative: 0 if x <= -3 else 1 if x >= 3 else x / 3 + 1 / 2
    """
    # The branch that is not taken must not overflow, or its gradient is inf * 0.
    inner = torch.where(x.abs() > 3, 0.0, x)
    return torch.where(x <= -3, -0.0, torch.where(x >= 3, x, inner * (inner + 3) / 6))


def softsign(x: Tensor) -> Tensor:
    """x / (1 + abs(x))

    Derivative: 1 / (1 + abs(x))^2
    """
    return x / (1 + x.abs())


def softcap(x: Tensor, cap: float | Tensor) -> Tensor:
    """cap * tanh(x / cap); no cap if it is 2^120 or more

    Derivative: 1 - tanh(x / cap)^2
    """
    if not isinstance(cap, Tensor):
        return x if abs(cap) >= NO_CAP else cap * torch.tanh(x / cap)
    none = cap.detach().abs() >= NO_CAP
    return torch.where(none, x, cap * torch.tanh(x / torch.where(none, 1.0, cap)))


# What stands for None, as large as every type of the arithmetic has it.
NO_CAP = 2.0**120


def situ(x: Tensor, beta: float | Tensor) -> Tensor:
    """beta * tanh(x / beta) * sigmoid(x)

    Derivative: s * (1 - tanh(x / beta)^2) + beta * tanh(x / beta) * s * (1 - s), s = sigmoid(x)
    """
    return softcap(x, beta) * torch.sigmoid(x)


def xielu(x: Tensor, alpha_p: float | Tensor, alpha_n: float | Tensor) -> Tensor:
    """alpha_p * x^2 + x / 2 above 0, alpha_n * (exp(min(x, -1e-6)) - 1 - x) + x / 2 elsewhere

    Derivative: 2 * alpha_p * x + 1 / 2 if x > 0 else alpha_n * (exp(x) - 1) + 1 / 2 if x <= -1e-6
    else 1 / 2 - alpha_n
    """
    above, below = torch.where(x > 0, x, 0.0), torch.where(x > 0, 0.0, x)
    inner = torch.where(below > -1e-6, -1e-6, below)
    negative = alpha_n * (torch.expm1(inner) - below) + below / 2
    return torch.where(x > 0, alpha_p * above * above + above / 2, negative)


def swish(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """x * sigmoid(beta * x)

    Derivative: s + beta * x * s * (1 - s), s = sigmoid(beta * x)
    """
    return x * torch.sigmoid(beta * x)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)

    Derivative: s + x * s * (1 - s), s = sigmoid(x)
    """
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), where Phi is the cumulative distribution of the standard normal

    Derivative: (1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 * pi)
    """
    # erfc, not 1 + erf, which cancels in the negative tail.
    return x * torch.erfc(x * -math.sqrt(0.5)) * 0.5


def gelu_tanh(x: Tensor) -> Tensor:
    """x * (1 + tanh(u)) / 2, u = sqrt(2 / pi) * (x + 0.044715 * x^3)

    Derivative: s + x * s * (1 - s) * sqrt(8 / pi) * (1 + 0.134145 * x^2),
    s = sigmoid(sqrt(8 / pi) * (x + 0.044715 * x^3))
    """
    # (1 + tanh(u)) / 2 is sigmoid(2u), which does not cancel in the negative tail.
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


def softplus(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta

    Derivative: 1 / (1 + exp(-beta * x))
    """
    z = beta * x
    # Not of |z|, whose gradient is 0 at 0. Both branches of the gradient stay finite.
    decay = torch.exp(torch.where(z > 0, -z, z))
    return (torch.where(z > 0, z, 0.0) + torch.log1p(decay)) / beta


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))

    Derivative: t + x * (1 - t^2) / (1 + exp(-x)), t = tanh(log(1 + exp(x)))
    """
    # With s = sigmoid(x) and u = sigmoid(-x), in which nothing cancels.
    u = torch.sigmoid(-x)
    return x * torch.sigmoid(x) * (1 + u) / (1 + u * u)


# What torch has in the place of f, which takes a parameter that is a number only.


def torch_leaky_relu(x: Tensor, slope: float | Tensor) -> Tensor:
    return leaky_relu(x, slope) if isinstance(slope, Tensor) else F.leaky_relu(x, slope)


def torch_elu(x: Tensor, alpha: float | Tensor) -> Tensor:
    return elu(x, alpha) if isinstance(alpha, Tensor) else F.elu(x, alpha)


def torch_silu(x: Tensor, beta: float | Tensor) -> Tensor:
    return F.silu(x) if not isinstance(beta, Tensor) and beta == 1.0 else swish(x, beta)


def torch_gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def torch_fatrelu(x: Tensor, threshold: float | Tensor) -> Tensor:
    if isinstance(threshold, Tensor):
        return fatrelu(x, threshold)
    return F.threshold(x, threshold, 0.0)


def torch_softplus(x: Tensor, beta: float | Tensor) -> Tensor:
    return softplus(x, beta) if isinstance(beta, Tensor) else F.softplus(x, beta)
