"""`python -m fused_acts.gallery`, the earlier name of `python -m fused_acts gallery`."""

import sys

from fused_acts.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["gallery", *sys.argv[1:]]))
