"""`python -m fused_acts`: what is installed, whether it works, and what it computes."""

import argparse
import sys
from collections.abc import Sequence

from fused_acts import _info, _selftest
from fused_acts.gallery import command as gallery

COMMANDS = {
    "info": (_info, "the build and what it runs on, with a line for reports"),
    "selftest": (_selftest, "some seconds: values, gradients and a speed on each device"),
    "gallery": (gallery, "writes FOLDER/activations.md: figures and pictures of every function"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fused_acts", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
