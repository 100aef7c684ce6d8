"""Trains the same small language model with every variant: the same parameters, steps and texts.

    python examples/compare_variants.py --plot variants.png     # 3 to 6 minutes on 2 cores

A demonstration, not a result. A model of this size, trained for so short a time at one learning
rate, does not say which variant is better in a large one, and the differences between the seeds
are not much smaller than those between the variants.
"""

import argparse
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from language_model import Size
from train_lm import add_arguments, train

import fused_acts


def validation_losses(args: argparse.Namespace) -> dict[str, list[float]]:
    """By variant, one a seed; a process a core, each with one thread."""
    runs = [
        argparse.Namespace(**{**vars(args), "variant": variant, "seed": seed})
        for seed in range(args.seeds)
        for variant in args.variants
    ]
    losses: dict[str, list[float]] = {variant: [] for variant in args.variants}
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        for run, result in zip(runs, pool.map(partial(train, ["fused"]), runs), strict=True):
            loss = result["fused"].validation_loss
            losses[run.variant].append(loss)
            print(f"{run.variant}, seed {run.seed}: {loss:.4f}", flush=True)
    return losses


def plot(path: Path, losses: dict[str, list[float]], title: str) -> None:
    """A point a seed, a bar at their mean; the best on top. losses: in that order"""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 1.5 + 0.25 * len(losses)), layout="constrained")
    for row, each in enumerate(losses.values()):
        axis.plot(each, [row] * len(each), "o", color="#d1495b", alpha=0.6, ms=5)
        axis.plot(statistics.mean(each), row, "|", color="black", ms=13, mew=2)
    axis.set_yticks(range(len(losses)), list(losses))
    axis.set(xlabel="validation loss, nats a byte: a point a seed, a bar for the mean")
    axis.set_title(title, fontsize=10)
    axis.invert_yaxis()
    axis.grid(axis="x", color="#e6e6e6")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = fused_acts.variants()
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    add_arguments(parser, Size(width=128, d_ff=352, layers=2), steps=200)
    parser.set_defaults(lr=2e-3)
    args = parser.parse_args()
    args.threads = args.threads or 1
    args.log_every = args.steps + 1  # only what comes out
    losses = validation_losses(args)
    losses = dict(sorted(losses.items(), key=lambda item: statistics.mean(item[1])))
    print(f"\n{'variant':<15} mean    spread  (validation loss; a demonstration, not a result)")
    for variant, each in losses.items():
        print(f"{variant:<15} {statistics.mean(each):.4f}  {max(each) - min(each):.4f}")
    if args.plot:
        title = f"A demonstration, not a result: {args.steps} steps of a tiny language model"
        plot(args.plot, losses, title)


if __name__ == "__main__":
    main()
