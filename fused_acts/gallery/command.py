"""`python -m fused_acts gallery [NAME ...] [--out FOLDER] [--beta 1.7 ...]`"""

import argparse
import sys
from pathlib import Path

from fused_acts.gallery import entry, page
from fused_acts.tables import ROWS

OPTIONS = sorted(set().union(*(entry.takes(row) for row in ROWS.values())))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="of which (default: all)")
    parser.add_argument("--out", type=Path, default=Path("gallery"), metavar="FOLDER")
    for name in OPTIONS:
        parser.add_argument(f"--{name}", type=float, help="for those that have it")


def run(args: argparse.Namespace) -> int:
    """Writes the page and its pictures. Returns 2 after an error that is printed."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    try:
        from fused_acts.gallery import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print(f"{error}: pip install 'fused-acts[gallery]'", file=sys.stderr)
        return 2
    try:
        found = page.galleries(entry.entries(args.names, **given))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    draw.draw(found, args.out / page.FOLDER)
    path = args.out / "activations.md"
    path.write_text(page.page(found), encoding="utf-8")
    print(path)
    return 0
