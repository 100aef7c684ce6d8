"""A language model of bytes, of LLaMA's shape, and the text it learns: the sources of Python's
standard library, which are there on every machine."""

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_acts
from fused_acts.nn import GatedExperts, GatedFFN

BYTES = 256  # the vocabulary


@dataclass(frozen=True)
class Size:
    width: int = 256
    d_ff: int = 704
    heads: int = 4
    layers: int = 4
    length: int = 128  # bytes of a text
    experts: int = 0  # of a layer, each d_ff wide; 0: one block for all bytes
    top_k: int = 2  # experts of a byte


class Attention(nn.Module):
    """Causal, with rotary positions. x: [batch, length, width]"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        batch, length, width = x.shape
        # [3, batch, heads, length, width / heads]
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], rotation)
        y = F.scaled_dot_product_attention(q, k, qkv[2], is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


def make_rotation(length: int, head_width: int) -> Tensor:
    """cos and sin of position times frequency: [2, length, head_width / 2]"""
    frequency = 10000.0 ** (-torch.arange(0, head_width, 2) / head_width)
    angle = torch.outer(torch.arange(length), frequency)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding of the last two dimensions, [length, head_width]."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class EagerFFN(nn.Module):
    """The feed-forward block as models have it, of torch's own operations; for swiglu, LLaMA's."""

    def __init__(self, d_model: int, d_ff: int, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # F.silu(gate) * up, or what the variant has in its place
        gate, up = self.gate_proj(x), self.up_proj(x)
        unit = fused_acts.reference.gated(gate, up, variant=self.variant, rounding="eager")
        return self.down_proj(unit)


class EagerExperts(nn.Module):
    """Experts as models have them, of torch's own operations around its grouped_mm."""

    def __init__(self, experts: int, d_model: int, d_ff: int, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * d_ff, d_model))
        self.down_proj = nn.Parameter(torch.empty(experts, d_model, d_ff))
        for matrix in self.parameters():
            nn.init.uniform_(matrix, -(matrix.shape[-1] ** -0.5), matrix.shape[-1] ** -0.5)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        tokens, k = ids.shape
        order = ids.flatten().argsort(stable=True)
        ends = torch.bincount(ids.flatten(), minlength=len(self.down_proj)).cumsum(0).int()
        rows = product(x[order // k], self.gate_up_proj, ends)
        rows = fused_acts.reference.gated(rows, variant=self.variant, rounding="eager")
        rows = product(rows, self.down_proj, ends) * weights.flatten()[order].unsqueeze(-1)
        return rows[order.argsort()].view(tokens, k, -1).sum(1)


def product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """[n, in] by [experts, out, in] to [n, out], in the dtype of autocast, which knows it not."""
    kind = rows.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
    return F.grouped_mm(rows.to(dtype), matrices.to(dtype).transpose(1, 2), offs=ends)


class Mixture(nn.Module):
    """Each token goes to top_k experts, of which the router says with what weight."""

    def __init__(self, d_model: int, top_k: int, experts: EagerExperts | GatedExperts) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(d_model, len(experts.down_proj), bias=False)
        self.experts = experts

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        weights, ids = self.router(tokens).float().softmax(-1).topk(self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        return self.experts(tokens, ids, weights).view(x.shape)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ffn: nn.Module) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.ffn_norm = nn.RMSNorm(width)
        self.ffn = ffn

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.ffn(self.ffn_norm(x))


class LanguageModel(nn.Module):
    """Predicts the next byte. make_ffn() makes the feed-forward block of a layer."""

    def __init__(self, size: Size, make_ffn: Callable[[], nn.Module]) -> None:
        super().__init__()
        width, heads = size.width, size.heads
        self.embedding = nn.Embedding(BYTES, width)
        self.blocks = nn.ModuleList(Block(width, heads, make_ffn()) for _ in range(size.layers))
        self.norm = nn.RMSNorm(width)
        self.register_buffer("rotation", make_rotation(size.length, width // heads))
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # it is the last layer as well

    def forward(self, text: Tensor) -> Tensor:
        """[batch, length] of bytes to [batch, length, BYTES]"""
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x, self.rotation)
        return F.linear(self.norm(x), self.embedding.weight)


def make_ffn(
    size: Size, ffn: str, variant: str, recompute: str, save: str | None = None
) -> nn.Module:
    """The feed-forward block of a layer, "eager" or "fused"."""
    experts = (size.experts,) if size.experts else ()
    shape = *experts, size.width, size.d_ff, variant
    if ffn == "eager":
        block = EagerExperts(*shape) if experts else EagerFFN(*shape)
    else:
        block = (GatedExperts if experts else GatedFFN)(*shape, recompute=recompute, save=save)
    return Mixture(size.width, size.top_k, block) if experts else block


def make_model(
    size: Size, ffn: str, variant: str, recompute: str, seed: int, save: str | None = None
) -> LanguageModel:
    """With the same weights for both kinds of block: GatedFFN packs those of gate and up itself."""
    torch.manual_seed(seed)
    eager = LanguageModel(size, partial(make_ffn, size, "eager", variant, recompute))
    if ffn == "eager":
        return eager
    fused = LanguageModel(size, partial(make_ffn, size, "fused", variant, recompute, save))
    fused.load_state_dict(eager.state_dict())
    return fused


def load_text() -> list[Tensor]:
    """The bytes of the library's modules: for training, and of every tenth file for validation."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    held_out = files[::10]
    parts = [file for file in files if file not in held_out], held_out
    texts = (b"".join(file.read_bytes() for file in part) for part in parts)
    return [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts]


def sample(text: Tensor, shape: tuple[int, int], generator: torch.Generator) -> list[Tensor]:
    """At random places: bytes, and those that follow each; [batch, length] both."""
    batch, length = shape
    start = torch.randint(len(text) - length, (batch, 1), generator=generator)
    window = text[start + torch.arange(length + 1)].long()
    return [window[:, :-1], window[:, 1:]]
