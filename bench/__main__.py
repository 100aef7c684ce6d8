"""`python -m bench [COMMAND] [options]`; without a command: run."""

import argparse
import importlib
import sys
from pathlib import Path

COMMANDS = ("run", "targets", "launch", "digits", "ffn", "memory", "activations")


def make_parser(command: str) -> argparse.ArgumentParser:
    """The options shared by all commands; a command's module adds its own."""
    parser = argparse.ArgumentParser(
        prog="python -m bench" if command == "run" else f"python -m bench {command}",
        epilog=f"Commands: {', '.join(COMMANDS)} (default: run). `python -m bench COMMAND --help`.",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where it can be used)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments and arguments[0] in COMMANDS else "run"
    options = arguments[1:] if arguments[:1] == [command] else arguments
    try:
        module = importlib.import_module(f".{command}", __package__)
    except ModuleNotFoundError as error:
        if error.name in ("rich", "matplotlib", "sklearn"):
            print(f"{error}: pip install 'fused-acts[bench]'", file=sys.stderr)
            return 2
        raise
    parser = make_parser(command)
    parser.description = module.__doc__
    module.add_arguments(parser)
    args = parser.parse_args(options)
    import torch

    from .machine import default_device

    args.device = torch.device(args.device) if args.device else default_device()
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.output.exists():
        args.output.mkdir(parents=True)
        (args.output / ".gitignore").write_text("*\n")
    return int(module.main(args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
