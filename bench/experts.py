"""Experts to compare, the gated unit between their matrix products and the whole block, all on the
same numbers, and the work they are given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_acts
from fused_acts._autograd.blocks import RECOMPUTE
from fused_acts.nn import GatedExperts

from .blocks import ARITHMETIC, ROUNDINGS, Block
from .cases import DTYPES
from .competitors import COMPILED, EAGER, OURS

TRANSFORMERS = ("transformers, grouped_mm", "transformers, eager")
ROWS = 256  # that are checked: float64 is slow


@dataclass(frozen=True)
class Size:
    experts: int
    top_k: int
    d_model: int
    d_ff: int


@dataclass(frozen=True)
class Case:
    """One size, and those that are to do it; the others are compared with the first."""

    what: str
    contenders: Sequence[Block]
    dtype: str
    x: Tensor
    grad_y: Tensor
    tokens: int
    # Of each, against float64: of the result and its gradients, |x - exact| / |exact|.
    errors: dict[str, list[float]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what}, {self.dtype}, {self.tokens} tokens"


def unit_case(size: Size, dtype: str, tokens: int, device: torch.device, compiles: bool) -> Case:
    """f(gate) * up * weight on the rows of all experts, packed as a grouped product made them."""
    rows = tokens * size.top_k
    x = torch.randn(rows, 2 * size.d_ff, device=device).to(DTYPES[dtype]).requires_grad_()
    weight = torch.rand(rows, device=device).to(x.dtype).requires_grad_()
    offs = torch.bincount(routed(size, tokens, device).flatten(), minlength=size.experts)
    offs = offs.cumsum(0).int()

    def written(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up * weight.unsqueeze(-1)

    functions = {
        EAGER: written,
        f"{OURS}, weight": lambda x: fused_acts.swiglu(x, weight=weight),
        f"{OURS}, weight and offs": lambda x: fused_acts.swiglu(x, weight=weight, offs=offs),
    }
    if compiles:
        torch._dynamo.reset()
        functions[COMPILED] = torch.compile(written, dynamic=False)
    contenders = [Block(name, function, (weight,)) for name, function in functions.items()]
    case = Case("unit", contenders, dtype, x, torch.randn_like(x[:, : size.d_ff]), tokens)
    exact = [t.detach()[:ROWS].double().requires_grad_() for t in (x, weight)]
    out = fused_acts.reference.gated(exact[0], weight=exact[1])
    grads = torch.autograd.grad(out, exact, case.grad_y[:ROWS].double())
    check(case, (out, *grads), slice(0, ROWS))
    return case


def block_case(size: Size, dtype: str, tokens: int, device: torch.device) -> Case:
    """The experts of Mixtral as transformers runs them, and ours, with the same parameters."""
    where: dict[str, Any] = {"device": device, "dtype": DTYPES[dtype]}
    shape = size.experts, size.d_model, size.d_ff
    own = {level: GatedExperts(*shape, recompute=level, **where) for level in RECOMPUTE}
    parameters = dict(own["none"].named_parameters())
    ids = routed(size, tokens, device)
    weights = torch.rand(ids.shape, device=device)  # in float32, as Mixtral's router has them
    weights = (weights / weights.sum(-1, keepdim=True)).requires_grad_()
    contenders: list[Block] = []

    def add(name: str, module: torch.nn.Module, forward: bool = True) -> None:
        module.load_state_dict(parameters, assign=True)  # the same, so they are cached once
        function = partial(call, module, ids, weights)
        contenders.append(Block(name, function, (*parameters.values(), weights), forward=forward))

    for name in TRANSFORMERS:
        add(name, mixtral_experts(size, name.rpartition(" ")[2]))
    for level, module in own.items():  # without gradients the levels are the same
        add(f"{OURS}, {level}", module, forward=level == "product")
    x, grad_y = (torch.randn(tokens, size.d_model, **where) for _ in range(2))
    case = Case("experts", contenders, dtype, x.requires_grad_(), grad_y, tokens)
    check(case, exact_block(case, parameters, ids, weights), slice(None))
    return case


def call(module: torch.nn.Module, ids: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    y: Tensor = module(x, ids, weights)
    return y


def has_transformers() -> bool:
    return find_spec("transformers") is not None


def mixtral_experts(size: Size, implementation: str) -> torch.nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(
        hidden_size=size.d_model, intermediate_size=size.d_ff, num_local_experts=size.experts
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        return MixtralExperts(config)


def routed(size: Size, tokens: int, device: torch.device) -> Tensor:
    """ids: [tokens, k], different ones for each token."""
    every = torch.rand(tokens, size.experts, device=device)
    return every.topk(size.top_k).indices


def exact_block(
    case: Case, parameters: dict[str, Tensor], ids: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    """In float64, by a loop over experts."""
    inputs = [case.x, *parameters.values(), weights]
    x, gate_up, down, weight = (t.detach().double().requires_grad_() for t in inputs)
    y = torch.zeros_like(x)
    for expert in range(len(down)):
        token, slot = torch.where(ids == expert)
        unit = fused_acts.reference.gated(x[token] @ gate_up[expert].t())
        rows = unit @ down[expert].t() * weight[token, slot].unsqueeze(-1)
        y = y.index_add(0, token, rows)
    return y, *torch.autograd.grad(y, (x, gate_up, down, weight), case.grad_y.double())


def check(case: Case, exact: Sequence[Tensor], rows: slice) -> None:
    """Notes the errors; raises a RuntimeError where results are not those in float64."""
    for each in case.contenders:
        results = (each.function(case.x), *each.training(case.x, case.grad_y)())
        errors = case.errors[each.name] = []
        for index, (result, wanted) in enumerate(zip(results, exact, strict=True)):
            error = ((result.double()[rows] - wanted).norm() / wanted.norm()).item()
            if not error <= ROUNDINGS * torch.finfo(case.x.dtype).eps + ARITHMETIC:
                raise RuntimeError(f"{each.name}: result {index} is off by {error:.1e}, {case}")
            errors.append(error)


def make_cases(args: Any) -> Iterator[Case]:
    """Each is checked before it is handed out."""
    torch.manual_seed(args.seed)
    size = Size(args.experts, args.top_k, args.d_model, args.d_ff)
    for dtype in args.dtypes or (["bf16"] if args.quick else ["bf16", "fp32"]):
        for tokens in args.tokens or ([64] if args.quick else [16, 4096]):
            compiles = not (args.quick or args.no_compile)
            yield unit_case(size, dtype, tokens, args.device, compiles)
            if has_transformers():
                yield block_case(size, dtype, tokens, args.device)
