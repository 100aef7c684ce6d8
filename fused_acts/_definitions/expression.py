"""What may stand in an expression, and what an expression becomes in C++."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from fused_acts.tables import ACTIVATIONS, ALIASES, VARIANTS, of_gate, of_up

# By how they are called; csrc/math/jet_functions.h has them, docs/own-units.md says more.
ARITHMETIC = (
    *("abs(x)", "clamp(x, low, high)", "erf(x)", "exp(x)", "expm1(x)", "fma(a, b, c)", "log(x)"),
    *("log1p(x)", "max(a, b)", "min(a, b)", "normal_cdf(x)", "pow(x, 3)", "reciprocal(x)"),
    *("rsqrt(x)", "select(condition, a, b)", "sqrt(x)", "square(x)"),
)


def _of_the_library() -> Iterator[str]:
    """Its activations and what its units are made of; behind x are numbers or parameters."""
    for name, row in ACTIVATIONS.items():
        yield _form(name, row.parameters)
    yield from (_form(alias, ()) for alias in ALIASES)
    for unit in VARIANTS.values():
        yield _form(unit.f.__name__, of_gate(unit, [*unit.parameters]))
        yield _form(unit.g.__name__, of_up(unit, [*unit.parameters]))


def _form(name: str, parameters: Iterable[str]) -> str:
    return f"{name}({', '.join(['x', *parameters])})"


FUNCTIONS = {form.partition("(")[0]: form for form in sorted({*ARITHMETIC, *_of_the_library()})}
for _name in ("identity", "plus_one"):  # which take no function
    del FUNCTIONS[_name]
CONSTANTS = ("pi",)

# What a parameter cannot be called: the words of C++, and what else stands in the code around it.
_WORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class
compl const constexpr continue decltype default delete do double dynamic_cast else enum explicit
export extern false float for friend goto if inline int long mutable namespace new noexcept not
not_eq nullptr operator or or_eq private protected public register reinterpret_cast return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true
try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
HUGE_VAL HUGE_VALF HUGE_VALL INFINITY NAN NULL x gate up
"""
RESERVED = {*_WORDS.split()}
TYPES = ("OwnVariable", "OwnFirst", "OwnSecond")  # of x and the parameters
_OWN_NAME = re.compile(r"Own[A-Z]|FUSED_ACTS_|_[A-Z]|.*__")

_TOKEN = re.compile(
    r"""
    (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<behind>[A-Za-z_]\w*)?
    |(?P<name>[A-Za-z_]\w*)
    |(?P<operator>//|/\*|<=|>=|==|!=|&&|\|\||\*\*|[-+*/<>(),!?:^%])
    |(?P<space>\s+)
    """,
    re.VERBOSE,
)
# What means something else in C++, or nothing.
_FOREIGN = {
    "**": "write square(x) or pow(x, 3)",
    "^": "write square(x) or pow(x, 3)",
    "==": "write select(x > a, ..., select(x < a, ..., ...))",
    "!=": "write select(x > a, ..., select(x < a, ..., ...))",
    "//": "there is no rounding to an integer, and no comment",
    "/*": "there is no comment",
    "%": "there is no remainder",
    "?": "write select(condition, a, b)",
    ":": "write select(condition, a, b)",
}


def check_expression(f: str, parameters: Sequence[str]) -> None:
    """Raises ValueError, with the place, for what is seen without a compiler."""
    if not f.strip():
        raise ValueError("f: expected an expression over x, got nothing")
    names = ["x", *parameters, *CONSTANTS]
    used, calls, before = set(), [False], ""
    for position, kind, word in _tokens(f):
        if word in _FOREIGN:
            raise _error(f, position, f"there is no {word} here: {_FOREIGN[word]}")
        if word == "(":
            calls.append(before in FUNCTIONS)
        elif word == ")" and len(calls) > 1:
            calls.pop()
        elif word == "," and not calls[-1]:
            raise _error(f, position, "there is no , here: it is for the arguments of a function")
        if kind == "name":
            is_call = f[position + len(word) :].lstrip().startswith("(")
            if is_call and word not in FUNCTIONS:
                raise _unknown(f, position, "function", word, FUNCTIONS)
            if not is_call and word not in names:
                raise _unknown(f, position, "name", word, names)
            used.add(word)
        before = word if kind != "space" else before
    for parameter in parameters:
        if parameter not in used:
            raise ValueError(f"parameters: {parameter} does not stand in f, {f!r}")


def _tokens(f: str) -> Iterator[tuple[int, str | None, str]]:
    position = 0
    while position < len(f):
        token = _TOKEN.match(f, position)
        if token is None:
            raise _error(f, position, f"{f[position]!r} is no part of an expression")
        if behind := token["behind"]:
            number = token["number"]
            raise _error(
                f, position, f"there is no {token.group()} here: write {number} * {behind}"
            )
        yield position, token.lastgroup, token.group()
        position = token.end()


def in_cpp(f: str) -> str:
    """The expression with its integers as numbers of a type of their own: 1 / 2 is a half."""
    return "".join(_word_in_cpp(kind, word) for _, kind, word in _tokens(f))


def _word_in_cpp(kind: str | None, word: str) -> str:
    if kind == "number" and word.isdigit():
        return f"{int(word)}_i" if int(word) < 2**31 else f"{word}.0"
    return f" {word}" if word in ("-", "+") else word  # or two of them are another operator


def position_of(f: str, in_cpp: int) -> int:
    """The place in f of one in what it becomes."""
    end = 0
    for position, kind, word in _tokens(f):
        end += len(_word_in_cpp(kind, word))
        if end > in_cpp:
            return position
    return len(f)


def is_reserved(name: str) -> bool:
    """Whether it has another meaning in the code around an expression."""
    return name in {*RESERVED, *FUNCTIONS, *CONSTANTS} or bool(_OWN_NAME.match(name))


def renamed(f: str, name: str, other: str) -> str:
    return "".join(other if word == name else word for _, _, word in _tokens(f))


def _unknown(f: str, position: int, kind: str, word: str, names: Iterable[str]) -> ValueError:
    names = list(names)
    close = difflib.get_close_matches(word, names, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    there = f"there are {', '.join(names)}"
    return _error(f, position, f"there is no {kind} {word}{meant}", there)


def _error(f: str, position: int, *what: str) -> ValueError:
    first, *rest = what
    return ValueError("\n".join([f"f: {first}", marked(f, position), *rest]))


def marked(f: str, position: int) -> str:
    """The line of f with a mark below a place in it."""
    start = f.rfind("\n", 0, position) + 1
    line = f[start:].partition("\n")[0]
    return f"    {line}\n    {' ' * (position - start)}^"
