"""The header that makes the sources of csrc/ those of one unit, and what a compiler says of it."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fused_acts._definitions.compile import Command, Output, environment
from fused_acts._definitions.definition import Definition
from fused_acts._definitions.expression import FUNCTIONS, TYPES, in_cpp, marked, position_of

_HEADER = """\
#include "math/jet_functions.h"

#define FUSED_ACTS_PLAIN_VARIANTS(X) {plain_units}
#define FUSED_ACTS_VARIANTS(X) FUSED_ACTS_PLAIN_VARIANTS(X) {units}
#define FUSED_ACTS_PLAIN_ACTIVATIONS(X) {plain_activations}
#define FUSED_ACTS_ACTIVATIONS(X) FUSED_ACTS_PLAIN_ACTIVATIONS(X) {activations}

namespace fused_acts {{

struct OwnExpression {{
  template <{classes}>
  static FUSED_ACTS_INLINE auto of({arguments}) {{
{body}
  }}
}};

template <class M>
using OwnFunction = JetFunction<M, OwnExpression, {count}>;
{gate}
}}  // namespace fused_acts
"""
_GATE = """
struct OwnGateExpression {{
  template <class X>
  static FUSED_ACTS_INLINE auto of(X x) {{
    return {g}(x);
  }}
}};

template <class M>
using OwnGate = JetFunction<M, OwnGateExpression, 0>;
"""
# All that kernels call, once, on numbers: the compiler says here what it has to say.
_PROBE = """\
#include "math/variants.h"

using Function = fused_acts::OwnFunction<fused_acts::Math64>;
using X = fused_acts::Variable<fused_acts::Math64, fused_acts::One, fused_acts::Zero>;
using Parameter = decltype(fused_acts::stands<fused_acts::Math64>(1.0));
using Result = decltype(fused_acts::OwnExpression::of({operands}));
static_assert(fused_acts::kIsJet<Result> || fused_acts::kIsLiteral<Result>,
              "expected an expression that is a number; got a condition, or nothing returned");
double probe(double x) {{
  Function f{numbers};
  return f.value(x) + f.dual(x).value + f.triple(x).value{by_parameters};
}}
"""
_BY = (" + f.by_parameter(x, 1.0)", " + f.by_second(x, 1.0)")


def own_unit(definition: Definition) -> str:
    """own_unit.h, which math/variants.h takes in the place of its tables."""
    names = ["x", *dict(definition.parameters)]
    g = {"identity": "Identity", None: "Unary"}.get(definition.g, "OwnGate")
    row = f"X(own, OwnFunction, {g})"
    kind = ("" if definition.parameters else "plain_") + (
        "activations" if definition.g is None else "units"
    )
    rows = dict.fromkeys(("plain_units", "units", "plain_activations", "activations"), "")
    return _HEADER.format(
        **rows | {kind: row},
        classes=", ".join(f"class {t}" for t in TYPES[: len(names)]),
        arguments=", ".join(
            f"[[maybe_unused]] {t} {n}" for t, n in zip(TYPES, names, strict=False)
        ),
        body=_body(definition),
        count=len(definition.parameters),
        gate=_GATE.format(g=definition.g) if g == "OwnGate" else "",
    )


def _body(definition: Definition) -> str:
    """With lines of its own, which the compiler's messages name."""
    if definition.is_body:
        return f'#line 1 "f_source"\n{definition.f}'
    return f'return (\n#line 1 "f"\n{in_cpp(definition.f)}\n);'


def check_source(
    definition: Definition, folder: Path, compiler: Sequence[str], output: Output
) -> None:
    """Raises ValueError for an expression that does not compile, before all the kernels are."""
    count = len(definition.parameters)
    probe = folder / "probe.cpp"
    numbers = f"({', '.join(['1.0'] * count)})" if count else ""
    operands = ", ".join(f"std::declval<{t}>()" for t in ("X", *["Parameter"] * count))
    probe.write_text(
        _PROBE.format(numbers=numbers, operands=operands, by_parameters="".join(_BY[:count]))
    )
    command = Command("own_unit.h", (*compiler, "-fsyntax-only", str(probe)))
    output.started(command)
    done = subprocess.run(
        command.words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    probe.unlink()
    if done.returncode:
        raise explain(definition, done.stdout) or RuntimeError(
            f"{definition.name}: its source does not compile:\n{done.stdout[:4000]}"
        )


def explain(definition: Definition, said: str) -> ValueError | None:
    """The first error that the compiler names a place of the expression for, in a few lines."""
    argument = "f_source" if definition.is_body else "f"
    no_number = re.search(r"static assertion failed.*?: (expected an expression.*)$", said, re.M)
    if no_number:
        return ValueError(f"{argument}: {no_number[1]}")
    place = rf"^{argument}:(\d+):(\d+): (?:fatal )?error: (.*)$"
    found = re.search(place, said, re.M)
    if found is None:
        # An error in what it calls, which says from where.
        what = re.search(r"^.*: error: (.*)$", said, re.M)
        found = re.search(rf"^{argument}:(\d+):(\d+): ", said, re.M)
        if what is None or found is None:
            return None
        message = what[1]
    else:
        message = found[3]
    line, column = int(found[1]), int(found[2])
    source = definition.f if definition.is_body else in_cpp(definition.f)
    lines = source.split("\n")
    position = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
    if not definition.is_body:
        position = position_of(definition.f, position)
    place = marked(definition.f, position)
    return ValueError(f"{argument}: does not compile: {_in_words(message)}\n{place}")


# What the types of the code around an expression are in it.
_WORDS = {"Variable": "x", "Jet": "a number", "Condition": "a condition"}


def _in_words(message: str) -> str:
    message = re.sub(r" \[with .*\]", "", message)
    message = re.sub(r"fused_acts::Integer<(-?\d+)>", r"\1", message)
    count = 1
    while count:
        message, count = re.subn(r"(fused_acts::\w+)<[^<>]*>", r"\1", message)
    message = re.sub(r"(?:const )?fused_acts::(\w+)&*", _word, message)
    called = re.search(r"no matching function for call to '(\w+)\(", message)
    form = FUNCTIONS.get(called[1]) if called else None
    return f"{message}; it is {form}" if form else message


def _word(found: re.Match[str]) -> str:
    return _WORDS.get(found[1], found[1])
