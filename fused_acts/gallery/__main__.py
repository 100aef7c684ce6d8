"""`python -m fused_acts.gallery [NAME ...] [--out FOLDER] [--beta 1.7 ...]`"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fused_acts.gallery import entry, page
from fused_acts.tables import ROWS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fused_acts.gallery",
        description="Writes FOLDER/activations.md and its pictures: figures of activations and "
        "gated units, computed by the library itself.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of which (default: all)")
    parser.add_argument("--out", type=Path, default=Path("gallery"), metavar="FOLDER")
    options = sorted(set().union(*(entry.takes(row) for row in ROWS)))
    for name in options:
        parser.add_argument(f"--{name}", type=float, help="for those that have it")
    args = parser.parse_args(arguments)
    given = {name: getattr(args, name) for name in options if getattr(args, name) is not None}
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
        parser.error(str(error))
    draw.draw(found, args.out / page.FOLDER)
    path = args.out / "activations.md"
    path.write_text(page.page(found), encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
