"""Trains a small language model of LLaMA's shape on the sources of Python's standard library, with
an eager feed-forward block and with fused_acts.nn.GatedFFN, from the same weights. The two take
their steps in turn, so that a busy moment of the machine is no one's disadvantage.

    python examples/train_lm.py                          # both, 2 to 4 minutes on 2 cores
    python examples/train_lm.py --ffn fused --variant geglu --recompute all --dtype bfloat16
    python examples/train_lm.py --save --dtype bfloat16  # all that the fused block can keep
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from language_model import Size, load_text, make_model, sample
from torch import Tensor, nn

import fused_acts

WARM_UP = 3  # steps whose time does not count
# What the fused block keeps for its backward pass: recompute and save.
KEPT = {
    "none": ("none", None),
    "product": ("product", None),
    "all": ("all", None),
    "fp8": ("product", "fp8_block128"),
}


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """What autograd keeps from the forward to the backward pass, the parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:  # a view counts once
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()  # lives on, and so do the addresses
    del loss
    return sum(storages.values())


@dataclass
class Run:
    losses: list[float] = field(default_factory=list)  # of training, one a step
    seconds: list[float] = field(default_factory=list)
    validation_loss: float = math.nan
    saved_bytes_per_token: float = math.nan

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds[WARM_UP:] or self.seconds)


class Training:
    """One model, its optimizer and its random texts: those of every other with the same seed.

    ffn: "eager", "fused", or one of KEPT, which are fused.
    """

    def __init__(self, ffn: str, args: argparse.Namespace) -> None:
        self.args = args
        self.text, self.validation_text = load_text()
        recompute, save = KEPT.get(ffn, (args.recompute, None))
        kind = "fused" if ffn in KEPT else ffn
        self.model = make_model(args.size, kind, args.variant, recompute, args.seed, save)
        parameters = self.model.to(args.device).parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.95))
        steps = max(args.steps, 20)  # its first tenth must be more than a step
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, args.lr, steps, pct_start=0.1
        )
        self.generator = torch.Generator().manual_seed(args.seed)
        self.run = Run()
        loss = partial(self.loss, self.text, torch.Generator().manual_seed(0))
        saved = saved_bytes(loss, self.model)
        self.run.saved_bytes_per_token = saved / (args.batch * args.size.length)

    def loss(self, text: Tensor, generator: torch.Generator) -> Tensor:
        args, dtype = self.args, getattr(torch, self.args.dtype)
        shape = args.batch, args.size.length
        inputs, targets = (t.to(args.device) for t in sample(text, shape, generator))
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            logits = self.model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def step(self) -> None:
        start = time.perf_counter()
        loss = self.loss(self.text, self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.run.losses.append(loss.item())  # which waits for the device
        self.run.seconds.append(time.perf_counter() - start)

    @torch.no_grad()
    def validate(self) -> None:
        generator = torch.Generator().manual_seed(0)  # the same texts for everyone
        losses = [
            self.loss(self.validation_text, generator).item() for _ in range(self.args.validation)
        ]
        self.run.validation_loss = statistics.mean(losses)


def train(ffns: Sequence[str], args: argparse.Namespace) -> dict[str, Run]:
    """All of them, a step each in turn; another goes first each time."""
    if args.threads:
        torch.set_num_threads(args.threads)
    trainings = {ffn: Training(ffn, args) for ffn in ffns}
    order = list(trainings.values())
    for step in range(1, args.steps + 1):
        for training in order:
            training.step()
        order.append(order.pop(0))
        if step % args.log_every == 0:
            losses = (f"{ffn} {each.run.losses[-1]:.4f}" for ffn, each in trainings.items())
            print(f"{args.variant}, step {step}: loss {', '.join(losses)}", flush=True)
    for training in order:
        training.validate()
    return {ffn: training.run for ffn, training in trainings.items()}


def compare(eager: Run, fused: Run) -> None:
    apart = [abs(one - other) for one, other in zip(eager.losses, fused.losses, strict=True)]
    times = fused.median_seconds / eager.median_seconds
    kept = fused.saved_bytes_per_token / eager.saved_bytes_per_token
    print(f"fused to eager: {times:.2f} of the time (medians), {kept:.2f} of the bytes kept")
    print(f"The training losses end {apart[-1]:.1e} apart, {max(apart):.1e} at most.")


def plot(path: Path, runs: dict[str, Run], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    styles = {"eager": {"lw": 4.5, "color": "#b8c0d0"}, "fused": {"lw": 1.2, "color": "#d1495b"}}
    for name, run in runs.items():
        label = f"{name}: validation loss {run.validation_loss:.4f}"
        axis.plot(run.losses, label=label, **styles[name])
    axis.set(xlabel="step", ylabel="training loss, nats a byte", title=title)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def plot_kept(path: Path, runs: dict[str, Run], title: str) -> None:
    """Of KEPT: the losses, and how far they are from those of the first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (losses, apart) = plt.subplots(
        2, figsize=(7.5, 5.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    first = next(iter(runs))
    colors = "#b8c0d0", "#30638e", "#edae49", "#d1495b"
    for i, (name, run) in enumerate(runs.items()):
        style = {"color": colors[i], "lw": 6 - 1.6 * i}
        label = f"{name}: {run.saved_bytes_per_token / 1000:.1f} kB a token kept, "
        losses.plot(run.losses, label=f"{label}validation loss {run.validation_loss:.4f}", **style)
        if name != first:
            differences = [a - b for a, b in zip(run.losses, runs[first].losses, strict=True)]
            apart.plot(differences, **style)
    losses.set(ylabel="training loss, nats a byte", title=title)
    losses.legend(frameon=False)
    apart.set(xlabel="step", ylabel=f"above {first}")
    for axis in (losses, apart):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def add_arguments(parser: argparse.ArgumentParser, size: Size, steps: int) -> None:
    option = parser.add_argument
    option("--steps", type=int, default=steps)
    option("--batch", type=int, default=8, help="texts of a step")
    option("--lr", type=float, default=1e-3)
    option("--dtype", choices=["float32", "bfloat16"], default="float32", help="of autocast")
    option("--recompute", choices=["none", "product", "all"], default="product")
    option("--validation", type=int, default=40, metavar="N", help="batches")
    option("--threads", type=int, help="of torch")
    option("--device", choices=["cpu", "cuda"], default="cpu")
    option("--plot", type=Path, metavar="FILE", help="a picture to write; needs matplotlib")
    parser.set_defaults(size=size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ffn", choices=["eager", "fused", "both"], default="both")
    parser.add_argument("--save", action="store_true", help="the fused one in all that it can keep")
    parser.add_argument("--variant", choices=fused_acts.variants(), default="swiglu")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser, Size(), steps=200)
    args = parser.parse_args()
    args.log_every = 50
    ffns = ["eager", "fused"] if args.ffn == "both" else [args.ffn]
    runs = train([*KEPT] if args.save else ffns, args)
    for name, run in runs.items():
        print(
            f"{name}: validation loss {run.validation_loss:.4f}, "
            f"{1e3 * run.median_seconds:.1f} ms a step, "
            f"{run.saved_bytes_per_token:.0f} bytes a token kept for backward"
        )
    if args.ffn == "both" and not args.save:
        compare(**runs)
    if args.plot:
        title = f"A language model of Python's library, {args.variant}, {args.dtype}, same seed"
        (plot_kept if args.save else plot)(args.plot, runs, title)


if __name__ == "__main__":
    main()
