"""Units of one's own: `define` compiles an expression into kernels with all derivatives."""

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

import fused_acts
from fused_acts import _ops as _ops  # the library is loaded
from fused_acts import _rows
from fused_acts._call import COMPOSED, ROW_INDEX
from fused_acts._definitions import build, trial
from fused_acts._definitions.compile import Output
from fused_acts._definitions.definition import LIBRARY, Definition, make_definition
from fused_acts._definitions.target import find_gpus
from fused_acts._formulas import identity, silu
from fused_acts.functional import FUNCTIONS
from fused_acts.tables import ACTIVATIONS, ALIASES, Activation, Variant

SOURCE = "a unit of one's own"
# What g can be, in torch.
_G = {"identity": identity, "silu": silu}
_G |= {name: row.f for name, row in ACTIVATIONS.items() if not row.parameters}
_locks: dict[str, threading.Lock] = {}  # by name: a reference may define another unit


class Reference:
    """f in torch, as a row has it. A pickle need not have brought it along."""

    def __init__(self, name: str, function: Callable[..., Tensor] | None) -> None:
        self.__name__, self.function = name, function

    def __call__(self, x: Tensor, *parameters: Any) -> Tensor:
        if self.function is None:
            raise RuntimeError(
                f"{self.__name__} was unpickled without its reference, of which this derivative is "
                "composed: call fused_acts.define with the same expression and its reference first"
            )
        return self.function(x, *parameters)

    @property
    def place(self) -> tuple[str, str] | None:
        """Where it can be imported from."""
        module = getattr(self.function, "__module__", None) or "torch"
        name = getattr(self.function, "__qualname__", "")
        short = getattr(self.function, "__name__", "")
        of_torch = ("torch", short), ("torch.nn.functional", short)  # which tell private places
        for place in (*of_torch, (module, name)):
            if self.function is not None and _imported(place) is self.function:
                return place
        return None


class Defined:
    """What modules keep of a unit; it is defined again where one is unpickled."""

    def __init__(self, definition: Definition, reference: Reference, fallback: str | None) -> None:
        self.definition, self.reference, self.fallback = definition, reference, fallback

    def __reduce__(self) -> Any:
        d, place = self.definition, self.reference.place
        return _restore, (d.name, d.f, d.is_body, d.g, d.parameters, place, self.fallback)


def _lock(name: str) -> threading.Lock:
    return _locks.setdefault(name, threading.Lock())


def _restore(
    name: str,
    f: str,
    is_body: bool,
    g: str | None,
    parameters: tuple[tuple[str, float], ...],
    place: tuple[str, str] | None,
    fallback: str | None,
) -> Defined:
    definition = Definition(name, f, is_body, g, parameters)
    with _lock(name):
        if definition.index not in _rows.DEFINITIONS:
            check_is_new(definition)
            _define(definition, _imported(place), fallback, None)
        defined: Defined = _rows.DEFINITIONS[definition.index]
        return defined


def _imported(place: tuple[str, str] | None) -> Callable[..., Tensor] | None:
    if place is None:
        return None
    module, name = place
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found  # type: ignore[no-any-return]


def define(
    name: str,
    f: str | None = None,
    *,
    f_source: str | None = None,
    parameters: Mapping[str, float] | None = None,
    g: str | None = "identity",
    reference: Callable[..., Tensor] | None = None,
    fallback: str | None = None,
    verbose: bool | None = None,
) -> _rows.OwnFunction:
    """Compiles f(gate) * g(up), or f(x), into kernels of the library with all their derivatives.

    From then on the unit is what those of the library are: it is returned as a function, and
    `gated`, `activation`, `nn` and all else take its name. Compiling takes seconds, for a GPU too
    about twenty; the result is kept in a folder for the next process. **The expression is
    compiled as code and run: never take one from someone you do not trust.** docs/own-units.md has
    the functions, and the rules for kinks and tails.

    Args:
        name: an identifier that no other unit, activation or function of the library has.
        f: an expression in C++ over x and the parameters, such as "x * sigmoid(a * x)", or the name
            of an activation of the library, which brings its parameters.
        f_source: instead of f, the body of a function of x and the parameters, which returns f(x).
        parameters: up to two numbers by name and their usual values. A call takes others, and
            tensors, which are differentiated too. No option of a call and no attribute of a module
            has such a name.
        g: what is applied to up: "identity", or an activation of the library without parameters.
            None: there is no up, and the unit is an activation alone, f(x).
        reference: f in torch, a function of x and the parameters. The compiled unit is tried
            against it, in float64, and derivatives of higher order are composed of it. It may be
            left out where f is the name of an activation.
        fallback: "torch": without a compiler calls are composed of the reference, also where a
            module is unpickled.
        verbose: what is shown on stderr while it is compiled. None: a line for each file; True:
            commands and all that compilers say, and how far results are from the reference; False:
            nothing.

    Returns:
        The function: of gate and up, or of x, with the options of `gated` or `activation`, and the
        parameters. The same again for the same definition.

    Raises:
        TypeError: an argument is of another type, or reference is missing.
        ValueError: a name is taken or no identifier, the expression does not compile, or a result
            is further from the reference than the budgets.
        RuntimeError: there is no compiler, and nothing compiled earlier; or csrc/ is not what this
            package was built from.
    """
    if fallback not in (None, "torch"):
        raise ValueError(f"fallback: expected torch or None, got {fallback!r}")
    definition = make_definition(name, f, f_source, parameters, g)
    if reference is None:
        library_name = (f or "").strip()
        row = LIBRARY.get(library_name)
        reference = row and (silu if library_name in ALIASES else row.f)
    check_reference(reference, definition)
    with _lock(name):
        defined = _rows.DEFINITIONS.get(definition.index)
        if defined is not None:
            if defined.reference.function is not reference:
                _try(definition, reference, verbose)
                defined.reference.function = reference
            return cast(_rows.OwnFunction, FUNCTIONS[name])
        check_is_new(definition)
        return _define(definition, reference, fallback, verbose)


def check_reference(reference: Any, definition: Definition) -> None:
    arguments = "x", *dict(definition.parameters)
    expected = f"a function of ({', '.join(arguments)}) in torch"
    if reference is None:
        raise TypeError(
            f"reference: expected {expected}; only for the name of an activation of the library as "
            "f may it be left out"
        )
    if not callable(reference):
        raise TypeError(f"reference: expected {expected}, got {type(reference).__name__}")
    try:
        inspect.signature(reference).bind(*arguments)
    except TypeError:
        got = inspect.signature(reference)
        raise TypeError(f"reference: expected {expected}, got one of {got}") from None
    except ValueError:  # a function of torch that tells no signature
        pass


def check_is_new(definition: Definition) -> None:
    name = definition.name
    if name not in ROW_INDEX and name not in dir(fused_acts):
        return
    defined = _rows.DEFINITIONS.get(ROW_INDEX.get(name, 0))
    if defined is None:
        raise ValueError(f"name: the library has a {name}; choose another name")
    raise ValueError(
        f"name: {name} is defined in this process already, as another unit: as "
        f"{_described(defined.definition)}, and now as {_described(definition)}"
    )


def _described(definition: Definition) -> str:
    parts = (
        f"f={definition.f!r}",
        f"parameters={dict(definition.parameters)}",
        f"g={definition.g!r}",
    )
    return ", ".join(parts)


def _row(definition: Definition, reference: Reference) -> Variant | Activation:
    parameters = dict(definition.parameters)
    if definition.g is None:
        return Activation(reference, definition.formula, SOURCE, parameters)
    return Variant(
        reference,
        _G[definition.g],
        definition.formula,
        SOURCE,
        parameters,
        limits=True,
        f_takes=len(parameters),
    )


def _define(
    definition: Definition,
    function: Callable[..., Tensor] | None,
    fallback: str | None,
    verbose: bool | None,
) -> _rows.OwnFunction:
    if function is not None:
        trial.check_reference_works(_row(definition, Reference(definition.name, function)))
    try:
        library = build.library(definition, verbose)
    except build.NoCompiler:
        if fallback is None or function is None:
            raise
        COMPOSED.add(definition.index)
    else:
        torch.ops.fused_acts.define_unit(definition.index, str(library))
        _try(definition, function, verbose)
    reference = Reference(definition.name, function)
    defined = Defined(definition, reference, fallback)
    row = _row(definition, reference)
    return _rows.add_row(definition.name, row, definition.index, defined)


def _try(
    definition: Definition, function: Callable[..., Tensor] | None, verbose: bool | None
) -> None:
    """Raises a ValueError if the compiled unit is not what the function is."""
    name, index = definition.name, definition.index
    if function is None or index in COMPOSED:
        return
    row = _row(definition, Reference(name, function))
    output = Output(name, verbose)
    for device in ["cpu", "cuda"] if find_gpus()[0] else ["cpu"]:
        for worst in trial.check(name, index, row, device):
            if verbose:
                output.line(f"{worst.what}, {worst.dtype}: {worst.ulps:.3g} ulp at {worst.x!r}")
