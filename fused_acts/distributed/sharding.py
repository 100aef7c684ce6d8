"""Which ways to split the operators over processes need no communication, for DTensor.

DTensor takes the cheapest of these for the placements that it meets, and moves data where none
fits. Gate, up and what comes of them may be split by any dimension; a packed tensor by columns only
so that each part holds a gate for each up.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

# The halves of a packed tensor split alike: each of 2 pieces over all processes.
from torch.distributed.tensor.placement_types import _StridedShard

from fused_acts import _ops
from fused_acts._call import is_unary
from fused_acts._layouts import block_of, is_interleaved

Arguments = Mapping[str, Any]
Placements = list[Placement | None]


class _Choice(NamedTuple):
    """A way to split a call over one dimension of a mesh: the placement of each kind of tensor."""

    unit: Placement  # [..., cols]
    input: Placement  # [..., cols], or packed [..., 2 * cols]
    vector: Placement  # [cols], what all rows share
    value: Placement  # a single value
    vector_gradient: Placement
    value_gradient: Placement

    @property
    def pair(self) -> Placement:
        """Of two vectors, one above the other."""
        return _below(self.vector)

    @property
    def pair_gradient(self) -> Placement:
        return _below(self.vector_gradient)


def _below(placement: Placement) -> Placement:
    return Shard(1) if placement == Shard(0) else placement


# The kind of each argument that is a tensor; those of values may also be numbers.
_KINDS = {
    **dict.fromkeys(("grad_out", "out"), "unit"),
    **dict.fromkeys(("x", "gate", "up", "gate_tangent", "up_tangent"), "input"),
    **dict.fromkeys(("gate_bias", "up_bias", "parameter"), "vector"),
    **dict.fromkeys(("scalar", "second", "limit", "weight"), "value"),
}


def _columns(args: Arguments, inputs: Sequence[Any]) -> Placement | None:
    """How inputs are split by columns so that each part is whole, or None."""
    spec = inputs[0]
    last = spec.ndim - 1
    if args.get("up") is not None or is_unary(args["variant"]):
        return Shard(last)
    if spec.shape[-1] // (2 * block_of(args["layout"])) % spec.mesh.size():
        return None
    if is_interleaved(args["layout"]):
        return Shard(last)
    # A part of both halves each. Offered only where a tensor comes so, because torch takes the way
    # there for cheaper than it is.
    strided = _StridedShard(last, split_factor=2)
    return strided if any(strided in each.placements for each in inputs) else None


def _choices(args: Arguments) -> list[_Choice]:
    inputs = [args[n] for n, kind in _KINDS.items() if kind == "input" and args.get(n) is not None]
    last = inputs[0].ndim - 1
    whole = Replicate()
    choices = [_Choice(whole, whole, whole, whole, whole, whole)]
    choices += [_Choice(Shard(i), Shard(i), whole, whole, *[Partial()] * 2) for i in range(last)]
    columns = _columns(args, inputs)
    if columns is not None:
        choices.append(_Choice(Shard(last), columns, Shard(0), whole, Shard(0), Partial()))
    return choices


def _kind_of_vector(vector: Any) -> str:
    if not vector.shape or vector.shape[-1] == 1:
        return "value"
    return "pair" if vector.ndim == 2 else "vector"


def _placement(choice: _Choice, name: str, tensor: Any) -> Placement:
    kind = _KINDS[name]
    if kind == "vector":
        kind = _kind_of_vector(tensor)
    placement: Placement = getattr(choice, kind)
    return placement


def _keeping(written: set[str], choices: list[_Choice], tensors: Arguments) -> list[_Choice]:
    """The choices that leave the tensors written to where they are."""
    mesh = next(iter(tensors.values())).mesh
    # torch combines the choices freely over the dimensions of a mesh, and takes one that moves
    # nothing if there is one.
    names = written & tensors.keys() if mesh.ndim == 1 else tensors.keys()
    kept = []
    for dim in range(mesh.ndim):
        fitting = [
            choice
            for choice in choices
            if all(tensors[n].placements[dim] == _placement(choice, n, tensors[n]) for n in names)
        ]
        if not fitting:
            name = min(written & tensors.keys())
            raise ValueError(
                f"{name}: expected to be placed as the other arguments, because it is written to, "
                f"got {tensors[name].placements}"
            )
        kept += fitting
    return kept


def _shardings(
    op: torch._ops.OpOverload, results: Callable[[Arguments], Sequence[str | None]], *values: Any
) -> list[tuple[Placements, Placements]]:
    """The placements of (results, arguments) that need no communication."""
    arguments = op._schema.arguments
    # What is left to its default is not among the values.
    args = {a.name: value for a, value in zip(arguments, values, strict=False)}
    tensors = {name: args[name] for name in args if name in _KINDS and hasattr(args[name], "shape")}
    choices = _choices(args)
    written = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
    if not args.get("product", True):
        written.discard("grad_out")
    if written:
        choices = _keeping(written, choices, tensors)
    return [
        (
            [Replicate() if kind is None else getattr(choice, kind) for kind in results(args)],
            [_placement(choice, n, args[n]) if n in tensors else None for n in args],
        )
        for choice in choices
    ]


def _inputs(args: Arguments) -> list[str | None]:
    needs = args["needs"]
    by_up = needs & 2 and args["up"] is not None
    return ["input" if needs & 1 else None, "input" if by_up else None]


def _vectors(args: Arguments) -> list[str | None]:
    kinds: list[str | None] = []
    for name, bit in (("gate_bias", 4), ("up_bias", 8), ("parameter", 16)):
        vector = args[name]
        kind = None
        if vector is not None and args["needs"] & bit:
            kind = f"{_kind_of_vector(vector)}_gradient"
        kinds.append(kind)
    return kinds


def _gradients(args: Arguments) -> list[str | None]:
    return _inputs(args) + _vectors(args)


def _double_backward(args: Arguments) -> list[str | None]:
    of_inputs = "input" if args["needs_inputs"] else None
    of_up = of_inputs if args["up"] is not None else None
    return ["unit" if args["needs_out"] else None, of_inputs, of_up]


# The kinds of the results of the operators of units; None is one that was not asked for, and is
# empty.
RESULTS: dict[Any, Callable[[Arguments], Sequence[str | None]]] = {
    _ops.glu_forward: lambda args: ["unit"],
    _ops.glu_forward_options: lambda args: ["unit"],
    _ops.glu_forward_numbers: lambda args: ["unit"],
    _ops.glu_backward_numbers: _gradients,
    _ops.gated: lambda args: ["unit"],
    _ops.glu_forward_out: lambda args: [],
    _ops.glu_backward: _inputs,
    _ops.glu_backward_options: _gradients,
    _ops.glu_backward_inplace: _vectors,
    _ops.glu_double_backward: _double_backward,
}


def _alike(op: torch._ops.OpOverload, *values: Any) -> list[tuple[Placements, Placements]]:
    """The same for an operator of whole rows, or of groups of columns: all are split alike."""
    arguments = op._schema.arguments
    args = {a.name: value for a, value in zip(arguments, values, strict=True)}
    spec = values[0]
    last = spec.ndim - 1
    places: list[Placement] = [Replicate(), *map(Shard, range(last))]
    if "pieces" in args:
        groups = spec.shape[-1] // (args["pieces"] if "x" in args else 1)
        places += [Shard(last)] if groups % spec.mesh.size() == 0 else []
    # A gradient that is not needed is empty.
    needs = [args.get(name, True) for name in ("needs_gate", "needs_up")]
    return [
        (
            [place if need else Replicate() for need in needs[: len(op._schema.returns)]],
            [place if str(a.type) == "Tensor" else None for a in arguments],
        )
        for place in places
    ]


def _row_unit(op: torch._ops.OpOverload, *values: Any) -> list[tuple[Placements, Placements]]:
    """The same for a unit of whole rows: its parameters are whole, and their gradients sums."""
    arguments = op._schema.arguments
    args = {a.name: value for a, value in zip(arguments, values, strict=True)}
    last = args["first"].ndim - 1
    whole = Replicate()
    choices: list[tuple[Placement, Placement]] = [(whole, whole)]
    choices += [(Shard(i), Partial()) for i in range(last)]
    parameters = ("weight", "bias")
    shardings: list[tuple[Placements, Placements]] = []
    for place, sum_place in choices:
        kinds = [place, place] if "needs" not in args else [place, place, sum_place, sum_place]
        # A gradient that is not needed, or by what there is not, is empty.
        needs = [args.get("needs", 15) >> i & 1 for i in range(4)]
        for i, name in enumerate(parameters, 2):
            needs[i] &= args[name] is not None
        results = [kind if need else whole for kind, need in zip(kinds, needs, strict=False)]
        given: Placements = [
            whole
            if a.name in parameters and args[a.name] is not None
            else place
            if str(a.type) == "Tensor"
            else None
            for a in arguments
        ]
        shardings.append(([*results], given))
    return shardings


def _rule(op: torch._ops.OpOverload) -> Callable[..., Any]:
    if op in RESULTS:
        return partial(_shardings, op, RESULTS[op])
    return partial(_row_unit if "row_unit" in op.name() else _alike, op)


for _op in _ops.OPERATORS:
    register_sharding(_op)(_rule(_op))
