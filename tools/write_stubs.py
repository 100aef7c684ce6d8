"""Writes what type checkers read of the tables: fused_acts/__init__.pyi and fused_acts/_names.py.

python tools/write_stubs.py [--check]    --check: only fail if they are not up to date
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fused_acts
from fused_acts import functional
from fused_acts._call import options_of
from fused_acts.tables import ACTIVATIONS, ALIASES, ROWS, VARIANTS

PACKAGE = Path(__file__).resolve().parent.parent / "fused_acts"
# The arguments whose values are names.
LITERALS = {
    "layout": "Layout",
    "rounding": "Rounding",
    "save": "Save",
    "variant": "VariantName",
}
GATED = {"variant": "VariantName"}
QUANTIZED = {
    "variant": "VariantName | ActivationName",
    "format": "FormatName",
    "scale_layout": "ScaleLayout",
    "scale_rounding": "ScaleRounding",
    "rounding": "QuantizedRounding",
}

NAMES = '''"""The names of the tables as types. Written by tools/write_stubs.py."""

from typing import Literal, NewType

OwnName = NewType("OwnName", str)  # of a row of one's own: the `name` of what define returned
VariantName = Literal[
{variants}
]
ActivationName = Literal[
{activations}
]
'''

STUB = '''"""Types of the public names. Written by tools/write_stubs.py."""

from typing import Any, overload

from torch import Tensor

from fused_acts import functional as functional
from fused_acts import nn as nn
from fused_acts import reference as reference
from fused_acts._autograd.dispatch import compile_as as compile_as
from fused_acts._build_info import __version__ as __version__
from fused_acts._build_info import show_build as show_build
from fused_acts._call import Rounding, Save
from fused_acts._formats import FormatName, QuantizedRounding, ScaleLayout, ScaleRounding
from fused_acts._layouts import Layout
from fused_acts._names import ActivationName, OwnName, VariantName
from fused_acts.definitions import define as define
from fused_acts.functional import activations as activations
from fused_acts.functional import maxout as maxout
from fused_acts.functional import softmax as softmax
from fused_acts.functional import softmax_glu as softmax_glu
from fused_acts.functional import variants as variants
from fused_acts.quantized import Quantized as Quantized
from fused_acts.row_units import polynorm_glu as polynorm_glu
from fused_acts.row_units import rms_norm_gated as rms_norm_gated
from fused_acts.row_units import topk_geglu as topk_geglu

{functions}
'''


def literal(names: Iterable[str]) -> str:
    return "\n".join(f'    "{name}",' for name in names)


def type_of(name: str, annotation: Any) -> str:
    if name in LITERALS:
        optional = annotation == str | None
        return LITERALS[name] + (" | None" if optional else "")
    if isinstance(annotation, type):
        return annotation.__name__
    return " | ".join(
        "None"
        if t is type(None)
        else t.__name__
        if isinstance(t, type)
        else str(t).replace("torch.", "")
        for t in annotation.__args__
    )


def function(name: str, signature: inspect.Signature) -> str:
    """One argument a line, as the formatter writes it."""
    lines = [f"def {name}("]
    keyword_only = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("    *,")
            keyword_only = True
        if parameter.kind is parameter.VAR_KEYWORD:
            lines.append(f"    **{parameter.name}: Any,")
            continue
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        default = default.replace("'", '"')
        lines.append(
            f"    {parameter.name}: {type_of(parameter.name, parameter.annotation)}{default},"
        )
    return "\n".join([*lines, ") -> Tensor: ..."])


def of_all(
    base: Any, indices: Iterable[int], types: dict[str, str], without: Sequence[str] = ()
) -> str:
    """gated or activation, with the options of all rows; the default is that of the row."""
    names = dict.fromkeys(name for index in indices for name in options_of(index))
    own = [p for p in inspect.signature(base).parameters.values() if p.kind is not p.VAR_KEYWORD]
    text = function(base.__name__, inspect.Signature(own))
    for name, kind in types.items():
        text = re.sub(rf"^    {name}: \w+", f"    {name}: {kind}", text, flags=re.MULTILINE)
    signatures = [f.__signature__ for f in functional.FUNCTIONS.values()]  # type: ignore[attr-defined]
    annotations = {p.name: p.annotation for s in signatures for p in s.parameters.values()}
    more = [
        f"    {name}: {type_of(name, annotations[name])} = ...,"
        for name in names
        if name not in {*(p.name for p in own), *without}
    ]
    table = text.replace("\n) ->", "\n" + "\n".join(more) + "\n) ->")
    return f"@overload\n{table}\n@overload\n{of_own(base, types)}"


def of_own(base: Any, types: dict[str, str]) -> str:
    """The same for rows of one's own, whose parameters have any names."""
    text = function(base.__name__, inspect.signature(base))
    for name, kind in types.items():
        own = "OwnName," if name in ("variant", "name") else f"{kind}\\1,"  # which has no default
        text = re.sub(rf"^    {name}: \w+( = .*)?,", f"    {name}: {own}", text, flags=re.MULTILINE)
    return text


def stub() -> str:
    units = range(len(VARIANTS))
    functions = [
        of_all(fused_acts.gated, units, GATED),
        of_all(fused_acts.activation, range(len(VARIANTS), len(ROWS)), {"name": "ActivationName"}),
        of_all(
            fused_acts.gated_quantized, range(len(ROWS)), QUANTIZED, ["inplace_backward"]
        ).replace(") -> Tensor", ") -> Quantized"),
    ]
    functions += [function(name, inspect.signature(f)) for name, f in functional.FUNCTIONS.items()]
    return STUB.format(functions="\n".join(functions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    texts = {
        "_names.py": NAMES.format(
            variants=literal(VARIANTS), activations=literal((*ACTIVATIONS, *ALIASES))
        ),
        "__init__.pyi": stub(),
    }
    stale = [name for name, text in texts.items() if (PACKAGE / name).read_text() != text]
    if check and stale:
        sys.exit(f"not up to date, run `make stubs`: {', '.join(stale)}")
    for name in stale:
        (PACKAGE / name).write_text(texts[name])


if __name__ == "__main__":
    main()
