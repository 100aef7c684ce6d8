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

from fused_acts import _ops, _quantized_ops
from fused_acts._call import ROW_KINDS, ZERO_PADDING, is_unary
from fused_acts._layouts import block_of, is_interleaved
from fused_acts.tables import ROWS

Arguments = Mapping[str, Any]
Placements = list[Placement | None]


class _Choice(NamedTuple):
    """A way to split a call over one dimension of a mesh: by rows, by columns, or not at all."""

    input: Placement  # of [..., cols], or of a packed [..., 2 * cols]
    dim: int | None = None  # of the output, by which it is split
    columns: bool = False  # whether that is its last one
    experts: bool = False  # or that of experts, each of which has its own rows

    @property
    def unit(self) -> Placement:
        """Of the output and what has its shape."""
        return Replicate() if self.dim is None else Shard(self.dim)

    def vector(self, vector: Any, expert_dim: int | None, otherwise: Placement) -> Placement:
        """Of what all rows share, or all of an expert."""
        is_value = not vector.shape or vector.shape[-1] == 1
        if self.columns and not is_value:
            return Shard(vector.ndim - 1)
        if self.experts and expert_dim is not None:
            return Shard(expert_dim)
        return Replicate() if self.dim is None else otherwise

    def of_rows(self, otherwise: Placement) -> Placement:
        """Of what each row has."""
        return otherwise if self.columns else self.unit


# The kind of each argument that is a tensor; those of values may also be numbers.
_KINDS = {
    **dict.fromkeys(("grad_out", "out"), "unit"),
    **dict.fromkeys(("x", "gate", "up", "gate_tangent", "up_tangent"), "input"),
    **dict.fromkeys(("gate_bias", "up_bias", "parameter"), "vector"),
    "row_weight": "row",
    "experts": "experts",
    **dict.fromkeys(("scalar", "second", "limit", "weight", "scale"), "value"),
    **dict.fromkeys(("values", "scales"), "unit"),
}


def _expert_dim(args: Arguments, name: str) -> int | None:
    """The dimension of a vector that has one entry for each expert."""
    before = int(name == "parameter" and len(ROWS[args["variant"]].parameters) == 2)
    return before if args[name].ndim == before + 2 else None


def _row_kind(args: Arguments) -> str | None:
    """What says whose rows are whose."""
    kind = args.get("rows", 0) % ZERO_PADDING
    return next((name for name, index in ROW_KINDS.items() if index == kind), None)


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
    last, kind = inputs[0].ndim - 1, _row_kind(args)
    # Ends of rows are those of all rows; counts go with their experts.
    by_rows = {"offs": range(0), "counts": range(1)}.get(kind or "", range(last))
    choices = [_Choice(Replicate())]
    choices += [_Choice(Shard(i), i, experts=kind == "counts") for i in by_rows]
    if "scale_layout" in args:  # scales are of groups of columns, and other layouts of all rows
        return choices if args["scale_layout"] == 0 else choices[:1]
    columns = _columns(args, inputs)
    if columns is not None:
        choices.append(_Choice(columns, last, columns=True))
    return choices


def _placement(choice: _Choice, name: str, args: Arguments) -> Placement:
    """Of an argument."""
    kind = _KINDS[name]
    if name == "scales" and not args["scales"].shape[0]:
        kind = "value"  # there are none
    if kind == "vector":
        return choice.vector(args[name], _expert_dim(args, name), Replicate())
    if kind == "experts":
        return Replicate() if _row_kind(args) == "offs" else choice.of_rows(Replicate())
    if kind == "row":
        return choice.of_rows(Replicate())
    return {"unit": choice.unit, "input": choice.input, "value": Replicate()}[kind]


def _result(choice: _Choice, kind: str | None, args: Arguments) -> Placement:
    """Of a result: like the output, like the inputs, or the gradient by an argument."""
    if kind is None:
        return Replicate()
    if kind == "row_weight":
        return choice.of_rows(Partial())
    if kind in ("unit", "input"):
        return choice.unit if kind == "unit" else choice.input
    return choice.vector(args[kind], _expert_dim(args, kind), Partial())


def _keeping(
    written: set[str], choices: list[_Choice], tensors: Arguments, args: Arguments
) -> list[_Choice]:
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
            if all(tensors[n].placements[dim] == _placement(choice, n, args) for n in names)
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
        choices = _keeping(written, choices, tensors, args)
    return [
        (
            [_result(choice, kind, args) for kind in results(args)],
            [_placement(choice, n, args) if n in tensors else None for n in args],
        )
        for choice in choices
    ]


def _inputs(args: Arguments) -> list[str | None]:
    needs = args["needs"]
    by_up = needs & 2 and args["up"] is not None
    return ["input" if needs & 1 else None, "input" if by_up else None]


def _vectors(args: Arguments) -> list[str | None]:
    names = {"gate_bias": 4, "up_bias": 8, "parameter": 16, "row_weight": 32}
    return [
        name if args.get(name) is not None and args["needs"] & bit else None
        for name, bit in names.items()
    ]


def _gradients(args: Arguments) -> list[str | None]:
    return _inputs(args) + _vectors(args)


def _double_backward(args: Arguments) -> list[str | None]:
    of_inputs = "input" if args["needs_inputs"] else None
    of_up = of_inputs if args["up"] is not None else None
    return ["unit" if args["needs_out"] else None, of_inputs, of_up]


def _quantized(args: Arguments) -> list[str | None]:
    return ["unit", "unit" if args["format"] else None]  # the scale of the first is given


# The results of the operators of units: as the output, as the inputs, or the gradient by an
# argument of this name. None is one that was not asked for, and is empty.
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
    _quantized_ops.glu_quantized: _quantized,
    _quantized_ops.glu_quantized_out: lambda args: [],
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
