"""The compilers and their flags, for setup.py and for units of one's own.

Nothing here needs torch, nor the rest of the package. A SystemExit carries the message for who runs
the build.
"""
