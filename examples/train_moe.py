"""Trains the small language model of train_lm.py with a mixture of experts in each layer, each byte
going to two of eight: once with experts of torch's own operations and once with
fused_acts.nn.GatedExperts, from the same weights, a step of each in turn.

    python examples/train_moe.py --plot train-moe.png    # 3 to 5 minutes on 2 cores
    python examples/train_moe.py --experts 16 --top-k 4 --recompute all --dtype bfloat16
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from language_model import Size
from torch.autograd.profiler import profile
from train_lm import Training, add_arguments, compare, plot, train

import fused_acts


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most that torch's allocator holds during the call, above what it holds before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as profiled:
        call()
    events = profiled.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda change: change.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def peak_of_a_step(ffn: str, args: argparse.Namespace) -> int:
    """Of a forward and a backward pass, the gradients of the parameters included."""
    training = Training(ffn, args)
    generator = torch.Generator().manual_seed(0)

    def call() -> None:
        training.loss(training.text, generator).backward()

    return peak_bytes(call, torch.device(args.device))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2, metavar="K", help="experts of a byte")
    parser.add_argument("--variant", choices=fused_acts.variants(), default="swiglu")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser, Size(d_ff=352), steps=200)
    args = parser.parse_args()
    args.size = replace(args.size, experts=args.experts, top_k=args.top_k)
    args.log_every = 50
    peaks = {ffn: peak_of_a_step(ffn, args) for ffn in ("eager", "fused")}
    runs = train(["eager", "fused"], args)
    for name, run in runs.items():
        print(
            f"{name}: validation loss {run.validation_loss:.4f}, "
            f"{args.batch * args.size.length / run.median_seconds:.0f} tokens/s, "
            f"{run.saved_bytes_per_token:.0f} bytes a token kept for backward, "
            f"peak {peaks[name] / 2**20:.1f} MiB"
        )
    compare(**runs)
    if args.plot:
        title = f"{args.top_k} of {args.experts} experts, {args.variant}, {args.dtype}, same seed"
        plot(args.plot, runs, title)


if __name__ == "__main__":
    main()
