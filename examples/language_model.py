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
from fused_acts.nn import GatedFFN

BYTES = 256  # the vocabulary


@dataclass(frozen=True)
class Size:
    width: int = 256
    d_ff: int = 704
    heads: int = 4
    layers: int = 4
    length: int = 128  # bytes of a text


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


def make_model(size: Size, ffn: str, variant: str, recompute: str, seed: int) -> LanguageModel:
    """With the same weights for both kinds of block: GatedFFN packs those of gate and up itself."""
    torch.manual_seed(seed)
    eager = LanguageModel(size, partial(EagerFFN, size.width, size.d_ff, variant))
    if ffn == "eager":
        return eager
    make_ffn = partial(GatedFFN, size.width, size.d_ff, variant, recompute=recompute)
    fused = LanguageModel(size, make_ffn)
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
