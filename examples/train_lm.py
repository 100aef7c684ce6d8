"""Trains a small language model of LLaMA's shape on the sources of Python's standard library, once
with an eager feed-forward block and once with fused_acts.nn.GatedFFN, from the same weights.

    python examples/train_lm.py                          # both, 2 to 4 minutes on 2 cores
    python examples/train_lm.py --ffn fused --variant geglu --recompute all --dtype bfloat16
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from language_model import Size, load_text, make_model, sample
from torch import Tensor, nn

import fused_acts

WARM_UP = 3  # steps that are not timed


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
    losses: list[float]  # of training, one a step
    validation_loss: float
    tokens_per_second: float
    saved_bytes_per_token: float
    peak_bytes: int


def train(ffn: str, args: argparse.Namespace) -> Run:
    if args.threads:
        torch.set_num_threads(args.threads)
    train_text, validation_text = load_text()
    model = make_model(args.size, ffn, args.variant, args.recompute, args.seed).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.1)
    dtype = getattr(torch, args.dtype)
    shape = args.batch, args.size.length

    def loss_of(text: Tensor, generator: torch.Generator) -> Tensor:
        inputs, targets = (t.to(args.device) for t in sample(text, shape, generator))
        with torch.autocast(args.device, dtype, enabled=dtype != torch.float32):
            logits = model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    generator = torch.Generator().manual_seed(args.seed)
    saved = saved_bytes(partial(loss_of, train_text, torch.Generator().manual_seed(0)), model)
    losses, seconds = [], []
    for step in range(args.steps):
        start = time.perf_counter()
        loss = loss_of(train_text, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        if (step + 1) % args.log_every == 0:
            print(f"{ffn} {args.variant}, step {step + 1}: loss {losses[-1]:.4f}", flush=True)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)  # the same texts for everyone
        validation = [loss_of(validation_text, generator).item() for _ in range(args.validation)]
    return Run(
        losses,
        statistics.mean(validation),
        math.prod(shape) / statistics.median(seconds[WARM_UP:] or seconds),
        saved / math.prod(shape),
        peak_memory(args.device),
    )


def peak_memory(device: str) -> int:
    """The most the GPU's allocator has held, or the process as a whole."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_alone(ffn: str, args: argparse.Namespace) -> Run:
    """In a process of its own, for the peak of the other would hide this one's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, ffn, args).result()


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
    parser.add_argument("--variant", choices=fused_acts.variants(), default="swiglu")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser, Size(), steps=200)
    args = parser.parse_args()
    args.log_every = 50
    runs = {ffn: run_alone(ffn, args) for ffn in ("eager", "fused") if args.ffn in (ffn, "both")}
    for name, run in runs.items():
        print(
            f"{name}: validation loss {run.validation_loss:.4f}, "
            f"{run.tokens_per_second:.0f} tokens/s, "
            f"{run.saved_bytes_per_token:.0f} bytes a token saved for backward, "
            f"peak memory {run.peak_bytes / 2**20:.0f} MiB"
        )
    if args.ffn == "both":
        eager, fused = (runs[name].losses for name in ("eager", "fused"))
        apart = max(abs(a - b) for a, b in zip(eager, fused, strict=True))
        print(
            f"The training losses end {abs(eager[-1] - fused[-1]):.1e} apart, {apart:.1e} at most."
        )
    if args.plot:
        title = f"A language model of Python's library, {args.variant}, {args.dtype}, same seed"
        plot(args.plot, runs, title)


if __name__ == "__main__":
    main()
