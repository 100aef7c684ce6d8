"""Feed-forward blocks to compare, all with the same weights, and the work they are given."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fused_acts
from fused_acts._autograd.blocks import RECOMPUTE
from fused_acts.nn import GatedFFN

from .cases import DTYPES
from .competitors import COMPILED, EAGER, OURS, Form, build_competitors, missing_peers
from .timing import Call

CHECKPOINT = "eager, checkpoint"
VARIANTS = ("swiglu", "geglu", "geglu_tanh", "reglu", "glu", "bilinear")
# Relative errors in the Euclidean norm that are acceptable: of rounding in eps of the dtype, and of
# sums of some thousand products in float32.
ROUNDINGS, ARITHMETIC = 2.0, 1e-5
EIGHT_BITS = 2.0**-4  # half the distance of neighbours in e4m3


@dataclass(frozen=True)
class Block:
    name: str
    function: Callable[[Tensor], Tensor]  # [tokens, d_model] -> [tokens, d_model]
    weights: tuple[Tensor, ...]  # of gate and up, or of both in one, then of down
    backward: bool = True
    forward: bool = True  # whether it is one of its own without gradients
    error: float = 0.0  # of its gradients, beside roundings: of what it keeps

    def inference(self, x: Tensor) -> Call:
        def call() -> Tensor:
            with torch.no_grad():
                return self.function(x)

        return call

    def training(self, x: Tensor, grad_y: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """Forward and backward; the gradients by x and by the weights."""

        def call() -> tuple[Tensor, ...]:
            return torch.autograd.grad(self.function(x), (x, *self.weights), grad_y)

        return call


@dataclass(frozen=True)
class Line:
    """What a line of the results is about."""

    block: str
    dtype: str
    tokens: int
    d_model: int
    d_ff: int


@dataclass(frozen=True)
class Case:
    """One size, and the blocks that are to do it, eager first."""

    blocks: Sequence[Block]
    dtype: str
    x: Tensor  # [tokens, d_model]
    grad_y: Tensor  # [tokens, d_model]
    d_ff: int

    def line(self, block: str) -> dict[str, Any]:
        tokens, d_model = self.x.shape
        return vars(Line(block, self.dtype, tokens, d_model, self.d_ff))

    def __str__(self) -> str:
        return f"{self.dtype}, {len(self.x)} tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--quick", action="store_true", help="256 tokens, bf16, without torch.compile")
    option("--d-model", type=int, default=1024)
    option("--d-ff", type=int, default=2816)
    option("--tokens", nargs="+", type=int, metavar="N", help="(quick: 256)")
    option("--dtypes", nargs="+", choices=DTYPES, help="(bf16 fp32)")
    option("--variant", choices=VARIANTS, default="swiglu")
    option("--no-compile", action="store_true", help="without torch.compile")


def make_cases(args: argparse.Namespace, default_tokens: Sequence[int]) -> Iterator[Case]:
    """Each is checked before it is handed out."""
    torch.manual_seed(args.seed)
    for dtype in args.dtypes or (["bf16"] if args.quick else ["bf16", "fp32"]):
        form = Form(args.variant, "separate", DTYPES[dtype], args.device)
        compiles = not (args.quick or args.no_compile)
        blocks = build_blocks(form, args.d_model, args.d_ff, compiles)
        for tokens in args.tokens or ([256] if args.quick else default_tokens):
            shape = (tokens, args.d_model)
            x, grad_y = (torch.randn(shape, device=args.device).to(form.dtype) for _ in range(2))
            case = Case(blocks, dtype, x.requires_grad_(), grad_y, args.d_ff)
            check(case, args.variant)
            yield case


def build_blocks(form: Form, d_model: int, d_ff: int, compiles: bool) -> list[Block]:
    where: dict[str, Any] = {"device": form.device, "dtype": form.dtype}
    state = GatedFFN(d_model, d_ff, packed=False, **where).state_dict()
    modules: dict[str, GatedFFN] = {}
    blocks: list[Block] = []
    for packed in (False, True):
        first = GatedFFN(d_model, d_ff, packed=packed, **where)
        first.load_state_dict(dict(state))
        for level in RECOMPUTE:
            module = GatedFFN(d_model, d_ff, form.variant, False, packed, level, device="meta")
            # The same weights, not equal ones: they take their share of the caches once.
            module.load_state_dict(first.state_dict(keep_vars=True), assign=True)
            modules[f"{OURS}, {'packed' if packed else 'separate'}, {level}"] = module
        unit_form = Form(form.variant, "gate_up", form.dtype, form.device) if packed else form
        for unit in build_competitors(unit_form, "off")[0]:
            if unit.name != OURS and not (packed and unit.name == EAGER):
                function = partial(llama, unit.fresh, first)
                blocks.append(Block(unit.name, function, weights_of(first), unit.backward))
    blocks.sort(key=lambda block: block.name != EAGER)
    eager, weights = blocks[0].function, blocks[0].weights
    if compiles:
        torch._dynamo.reset()
        blocks.append(Block(COMPILED, torch.compile(eager, dynamic=False), weights))
    checkpointed = partial(checkpoint, eager, use_reentrant=False)
    blocks.append(Block(CHECKPOINT, checkpointed, weights, forward=False))
    for name, module in modules.items():
        default = module.recompute == "product"  # without gradients the levels are the same
        blocks.append(Block(name, module, weights_of(module), forward=default))
    saving = GatedFFN(d_model, d_ff, form.variant, device="meta", save="fp8_block128")
    saving.load_state_dict(first.state_dict(keep_vars=True), assign=True)
    name, weights = f"{OURS}, packed, in fp8", weights_of(saving)
    blocks.append(Block(name, saving, weights, forward=False, error=EIGHT_BITS))
    return blocks


def weights_of(ffn: GatedFFN) -> tuple[Tensor, ...]:
    return (*(projection.weight for projection in ffn.projections), ffn.down_proj.weight)


def llama(unit: Callable[..., Tensor], ffn: GatedFFN, x: Tensor) -> Tensor:
    """The block as it is written in LLaMA, around somebody's gated unit."""
    y: Tensor = ffn.down_proj(unit(*(projection(x) for projection in ffn.projections)))
    return y


def check(case: Case, variant: str) -> None:
    """Raises a RuntimeError where a block's results are not those of the formula in float64."""
    names = ("y", "grad_x", "grad_gate_weight", "grad_up_weight", "grad_down_weight")
    rows = slice(0, 256)  # float64 is slow
    x, grad_y = case.x.detach()[rows].requires_grad_(), case.grad_y[rows]
    inputs = [t.detach().double().requires_grad_() for t in (x, *case.blocks[0].weights)]
    hidden = (inputs[0] @ weight.t() for weight in inputs[1:3])
    y = fused_acts.reference.gated(*hidden, variant=variant) @ inputs[3].t()
    exact = (y, *torch.autograd.grad(y, inputs, grad_y.double()))
    for block in case.blocks:
        results = [block.function(x)]
        if block.backward:
            grad_x, *grads, grad_down = block.training(x, grad_y)()
            results += [grad_x, *torch.cat(grads).chunk(2), grad_down]
        for name, result, wanted in zip(names, results, exact, strict=False):  # some: y alone
            error = ((result.double() - wanted).norm() / wanted.norm()).item()
            kept = 0.0 if name == "y" else block.error
            if not error <= ROUNDINGS * torch.finfo(x.dtype).eps + ARITHMETIC + kept:
                raise RuntimeError(f"{block.name}: {name} is off by {error:.1e}, {case}")


def absent(device: torch.device) -> str:
    """Who is not measured, and why."""
    parts = [f"not installed: {', '.join(missing_peers())}"] if missing_peers() else []
    if device.type != "cuda":
        parts.append("Liger, FlashInfer and flash-attn run on CUDA only")
    return "; ".join(parts)
