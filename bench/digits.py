"""Trains a small gated feed-forward classifier on scikit-learn's bundled handwritten digits, with
the fused op and with the eager one from the same seed; compares losses, accuracies and times."""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import fused_acts

from .competitors import EAGER, OURS, Form, eager
from .plots import plot_losses
from .report import format_time, make_console, plain_table, styled_ratio
from .timing import Clock

PIXELS = 64
CLASSES = 10
D_FF = 1024
BATCH = 128
Gate = Callable[[Tensor], Tensor]


class GatedBlock(nn.Module):
    """x + down(gate(up(norm(x)))): a transformer's feed-forward block, with a packed projection."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(PIXELS)
        self.up = nn.Linear(PIXELS, 2 * D_FF, bias=False)
        self.down = nn.Linear(D_FF, PIXELS, bias=False)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """x: [rows, PIXELS] -> [rows, PIXELS]"""
        out: Tensor = x + self.down(self.gate(self.up(self.norm(x))))
        return out


@dataclass
class Contender:
    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)  # one an epoch, as are the seconds
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0


def make_contenders(variant: str, seed: int, device: torch.device) -> list[Contender]:
    form = Form(variant, "gate_up", torch.float32, device)
    gates: dict[str, Gate] = {
        OURS: partial(fused_acts.gated, variant=variant),
        EAGER: eager(form).fresh,
    }
    contenders = []
    for name, gate in gates.items():
        torch.manual_seed(seed)
        blocks = [GatedBlock(gate), GatedBlock(gate)]
        head = [nn.RMSNorm(PIXELS), nn.Linear(PIXELS, CLASSES)]
        model = nn.Sequential(*blocks, *head).to(device)
        contenders.append(Contender(name, model, torch.optim.AdamW(model.parameters(), lr=1e-3)))
    return contenders


def load(seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pixels [rows, PIXELS] in [0, 1] and labels [rows], then those for the test."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=seed)
    train_x, test_x, train_y, test_y = (torch.as_tensor(part, device=device) for part in parts)
    return train_x.float(), train_y, test_x.float(), test_y


def train_epoch(contender: Contender, x: Tensor, y: Tensor, order: Tensor) -> None:
    total = torch.zeros((), device=x.device)
    start = time.perf_counter()
    for batch in order.split(BATCH):
        loss = F.cross_entropy(contender.model(x[batch]), y[batch])
        contender.optimizer.zero_grad()
        loss.backward()
        contender.optimizer.step()
        total += loss.detach() * len(batch)
    contender.losses.append(total.item() / len(order))  # item() waits for the device
    contender.seconds.append(time.perf_counter() - start)


def train(
    variant: str, epochs: int, seed: int, device: torch.device, clock: Clock
) -> list[Contender]:
    """All contenders epoch by epoch in turn, so that noise on the machine hits them alike.

    Stops early when the clock runs out, but not before the first epoch is done.
    """
    train_x, train_y, test_x, test_y = load(seed, device)
    generator = torch.Generator().manual_seed(seed)

    def shuffled() -> Tensor:
        return torch.randperm(len(train_x), generator=generator).to(device)

    for warm_up in make_contenders(variant, seed, device):
        train_epoch(warm_up, train_x, train_y, shuffled()[: 2 * BATCH])
    contenders = make_contenders(variant, seed, device)
    for epoch in range(epochs):
        order = shuffled()
        for contender in contenders if epoch % 2 else reversed(contenders):
            train_epoch(contender, train_x, train_y, order)
        if not clock.left():
            break
    with torch.no_grad():
        for contender in contenders:
            right = contender.model(test_x).argmax(-1) == test_y
            contender.accuracy = right.double().mean().item()
    return contenders


def run_digits(
    console: Console,
    output: Path,
    device: torch.device,
    variant: str,
    epochs: int,
    seed: int,
    clock: Clock,
) -> None:
    with console.status("training on the handwritten digits"):
        contenders = train(variant, epochs, seed, device, clock)
    baseline = next(each for each in contenders if each.name == EAGER)
    if len(baseline.losses) < epochs:
        epochs = len(baseline.losses)
        console.print(f"  time was up: stopped after {epochs} epochs", style="yellow")
    shown = sorted({1, 2, 5, *range(10, epochs, 10), epochs} & set(range(1, epochs + 1)))
    table = plain_table(
        f"Handwritten digits: a classifier with two gated blocks ({variant}, d_ff {D_FF}, fp32)",
        ["", *(f"loss\nepoch {epoch}" for epoch in shown)]
        + ["test\naccuracy", "time an epoch\n(median)", "\nvs eager"],
    )
    for each in contenders:
        pairs = zip(each.seconds, baseline.seconds, strict=True)
        table.add_row(
            each.name,
            *(f"{each.losses[epoch - 1]:.5f}" for epoch in shown),
            f"{each.accuracy:.2%}",
            format_time(statistics.median(each.seconds)),
            styled_ratio(statistics.median(own / base for own, base in pairs)),
        )
    console.print(table)
    losses = {each.name: each.losses for each in contenders}
    path = output / "digits.png"
    plot_losses(path, losses, f"Handwritten digits, gated classifier ({variant}), same seed")
    console.print(f"  loss curves: {path}\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--budget", type=float, default=120, metavar="S", help="seconds (120)")
    parser.add_argument("--variant", choices=fused_acts.variants(), default="swiglu")


def main(args: argparse.Namespace) -> int:
    clock = Clock(args.budget)
    console = make_console()
    run_digits(console, args.output, args.device, args.variant, args.epochs, args.seed, clock)
    return 0
