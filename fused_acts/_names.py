"""The names of the tables as types. Written by tools/write_stubs.py."""

from typing import Literal

VariantName = Literal["swiglu"]
ActivationName = Literal["relu"]
