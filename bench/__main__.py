"""`python -m bench [COMMAND] [options]`; without a command: run."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .machine import default_device

COMMANDS = {
    "run": "gated units at the sizes of real models, and a training on digits (the default)",
    "targets": "the numbers this library has set itself on the CPU",
    "units": "every gated unit from one token to many, as JSON and a table in Markdown",
    "launch": "what a call costs beside its kernel",
    "digits": "the training on digits alone",
    "ffn": "feed-forward blocks: time",
    "memory": "feed-forward blocks: bytes kept for backward, and peaks",
    "moe": "experts of a mixture: time, and bytes kept for backward",
    "quantised": "gated_quantized in every format",
    "field": "other libraries, each in an environment of its own, against eager PyTorch (CPU)",
    "own": "units defined by an expression",
    "activations": "activations alone, maxout and softmax_glu",
}
EXTRA = ("rich", "matplotlib", "sklearn")  # what `pip install 'fused-acts[bench]'` brings


def shared_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--device",
        type=torch.device,
        default=default_device(),
        help="cpu, cuda or cuda:N (default: cuda where it can be used)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def lacking(package: str) -> Callable[[argparse.Namespace], int]:
    """In the place of a command that needs the package."""

    def main(args: argparse.Namespace) -> int:
        print(f"No module named {package!r}: pip install 'fused-acts[bench]'", file=sys.stderr)
        return 2

    return main


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Benchmarks of fused-acts; without a COMMAND: run."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    shared = [shared_options()]
    for name, text in COMMANDS.items():
        try:
            module = importlib.import_module(f".{name}", __package__)
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise
            text = f"{text}; needs {error.name}, which is not there"
            command = commands.add_parser(name, parents=shared, help=text)
            command.set_defaults(main=lacking(error.name))
            continue
        command = commands.add_parser(name, parents=shared, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    return parser


def main(arguments: list[str]) -> int:
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["run", *arguments]
    args = make_parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.output.exists():
        args.output.mkdir(parents=True)
        (args.output / ".gitignore").write_text("*\n")
    return int(args.main(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
