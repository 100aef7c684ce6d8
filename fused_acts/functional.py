"""The public functions: gated units, activations alone, maxout and softmax_glu."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fused_acts import _checks, _nested, _signatures
from fused_acts._autograd.context import autocasts, promoted
from fused_acts._autograd.maxout import maxout as _maxout
from fused_acts._autograd.softmax_glu import softmax_glu as _softmax_glu
from fused_acts._call import ACTIVATION_INDEX, NAMES, VARIANT_INDEX, index_of
from fused_acts._dims import run_along
from fused_acts._run import FAILURES, check_tensors, recover, run
from fused_acts.tables import ACTIVATIONS, ALIASES, ROWS, VARIANTS, Variant


def refuse_script(*_: Any) -> None:
    raise TypeError(
        "torch.jit.script: cannot compile fused_acts; use torch.compile, torch.export or "
        "torch.jit.trace"
    )


def variants() -> tuple[str, ...]:
    """The names of all variants, those of one's own behind those of the library."""
    return tuple(VARIANTS)


def activations() -> tuple[str, ...]:
    """The names of all activations, those of one's own behind those of the library."""
    return tuple(ACTIVATIONS)


def gated(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    dim: int = -1,
    out: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """f(gate) * g(up) * weight, with f and g the activations of the variant.

    Args:
        gate: [..., cols], or without up the packed tensor x: [..., 2 * cols]. float64, float32,
            float16 or bfloat16, on the CPU or a CUDA device. Any row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate: nothing is broadcast, and promoted
            only under autocast.
        variant: one of `fused_acts.variants()`.
        layout: where a packed x holds gate and up. "gate_up": gate is the first half of the
            columns; "up_gate": the second half, as in torch.nn.functional.glu; "interleaved": they
            take turns, in blocks of columns.
        block: how many columns a block of gate and of up has where they are interleaved. With 1
            gate is at the even columns, up at the odd ones.
        dim: the dimension of a packed x that holds gate and up, its size in the result halved. x is
            read in place if it is contiguous from there on, or if its stride is 1 there, as that of
            the channels in channels_last; otherwise a copy. Biases and parameters go along it, for
            which x is copied unless the stride is 1.
        out: a tensor [..., cols] of the dtype and device of gate to write the result into; gate or
            up itself is allowed.
        gate_bias, up_bias: [cols], added to gate and up first; in the dtype of gate, or float32.
        bias: [2 * cols], both in one, packed as x is.
        beta, alpha, slope, negative_slope, threshold: the parameter of f, where the variant has
            one: a number, or a tensor, a single value or [cols], which is differentiated too.
        linear_beta: that of g, in the same way. None: none, and beta too where g has one.
        limit: where the variant has it, gate is cut to min(gate, limit) and up to
            clamp(up, -limit, limit) before the activations; or f(gate) is cut in place of gate, if
            the formula says so. None: not at all.
        weight: a number that the result is multiplied by before it is rounded; or a tensor of the
            shape of gate without its columns, a number for each row, which is differentiated too:
            the weights of tokens in a mixture of experts. In the dtype of gate, or float32.
        offs, counts, row_expert: which rows belong to which expert: none of them, or one. Biases
            are then [cols] or [experts, cols], parameters [experts] or [experts, cols] (of one
            dimension: experts), with gradients by each expert's own rows. int32 on the device of
            gate, where no host reads them. offs: [experts], ends of the rows of each, as torch's
            grouped_mm takes them; rows behind the last are padding. counts: [experts], for gate
            [experts, rows, cols] how many rows of each are its own, the others padding.
            row_expert: the shape of gate without its columns, the expert of each row, -1 for
            padding.
        padding: "skip": rows of padding in the result are left as they are, uninitialised without
            out. "zero": they are written 0. Padding of the arguments is not read, and its gradients
            are 0.
        rounding: "single": one rounding, of the result. "eager": that of torch's own composition,
            bit for bit, which also computes it; the backward pass is the same.
        inplace_backward: whether the backward pass writes the gradients over gate and up, which
            saves their memory. They must not be leaves, and the graph runs backward only once.
            Ignored under torch.compile.
        save: "fp8_block128": what the backward pass needs of gate and up is kept as e4m3 with a
            float32 scale for each 128 columns of each, 2.06 bytes for the two in place of 4, and
            the gradients are those of what these stand for, in the dtype of gate. The result is
            the same. Infinity and NaN make their 128 columns NaN there. A recorded program, as of
            torch.export, keeps gate and up as they are.

    Returns:
        [..., cols] in the dtype of gate, contiguous if dim is the last. Computed in float32, or in
        float64 for float64, and rounded once. Nested tensors (torch.jagged) give a nested one.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate,
            or the variant has no such option, or save with float64.
        ValueError: a shape or device does not match, a packed width is odd or not of whole blocks,
            a tensor is 0-d, a name is unknown, a layout or dim is given with two tensors,
            inplace_backward with a leaf or with save, or two of offs, counts and row_expert. On the
            CPU, also offs that decrease or exceed the rows, and a row_expert that has no bias or
            parameter; a GPU treats such rows as padding, or as another expert's.
        IndexError: x has no dimension dim.
        RuntimeError: out is given and an argument requires grad or has a tangent; or save under a
            transform of torch.func, in forward mode, or, in the backward pass, with create_graph.
    """
    index = index_of("variant", variant, VARIANT_INDEX)
    if dim != -1:
        return run_along(dim, gate, up, index, layout, out, options)
    return run(gate, up, index, layout, out, options)


def activation(
    x: Tensor, name: str, bias: Tensor | None = None, *, out: Tensor | None = None, **options: Any
) -> Tensor:
    """f(x + bias) * weight in one pass, with gradients by x, bias and parameter from one pass.

    Args:
        x: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any row
            stride is read in place.
        name: one of `fused_acts.activations()`, or silu, which is swish.
        bias: [cols], in the dtype of x or float32.
        out: a tensor of the shape, dtype and device of x to write the result into; x is allowed.
        beta, alpha, slope, negative_slope, alpha_p, alpha_n: the parameters of f, where it has one:
            a number, or a tensor, a single value or [cols], which is differentiated too.
        weight: a number that the result is multiplied by before it is rounded; or a tensor of the
            shape of x without its columns, a number for each row, which is differentiated too. In
            the dtype of x, or float32.
        offs, counts, row_expert: which rows belong to which expert: none of them, or one. A bias is
            then [cols] or [experts, cols], parameters [experts] or [experts, cols], with gradients
            by each expert's own rows. int32 on the device of x, where no host reads them. offs:
            [experts], ends of the rows of each; rows behind the last are padding. counts:
            [experts], for x [experts, rows, cols] how many rows of each are its own, the others
            padding. row_expert: the shape of x without its columns, the expert of each row, -1 for
            padding.
        padding: "skip": rows of padding in the result are left as they are, uninitialised without
            out. "zero": they are written 0. Padding of x is not read, and its gradients are 0.
        save: "fp8_block128": what the backward pass needs of x is kept as e4m3 with a float32 scale
            for each 128 columns, and the gradients are those of what these stand for, in the dtype
            of x. The result is the same. Infinity and NaN make their 128 columns NaN there. A
            recorded program, as of torch.export, keeps x as it is.

    Returns:
        [..., cols] in the dtype of x, contiguous; without what columns or rows have of their own of
        the strides of a dense x, such as channels_last. Computed in float32, or in float64 for
        float64, and rounded once. A nested tensor (torch.jagged) gives a nested one.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of x, or
            the activation has no such parameter, or save with float64.
        ValueError: a shape or device does not match, x is 0-d, or the name is unknown.
        RuntimeError: out is given and an argument requires grad or has a tangent; or save under a
            transform of torch.func, in forward mode, or, in the backward pass, with create_graph.
    """
    if bias is not None:
        options["bias"] = bias
    return run(x, None, index_of("name", name, ACTIVATION_INDEX), "gate_up", out, options)


def _unit_function(variant: int, packed_layout: str) -> Callable[..., Tensor]:
    def function(
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str = "gate_up",
        dim: int = -1,
        out: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if dim != -1:
            return run_along(dim, gate, up, variant, layout, out, options)
        return run(gate, up, variant, layout, out, options)

    def function_of_packed(
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str | None = None,
        dim: int = -1,
        out: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if layout is None:
            layout = "gate_up" if up is not None else packed_layout
        if dim != -1:
            return run_along(dim, gate, up, variant, layout, out, options)
        return run(gate, up, variant, layout, out, options)

    return function if packed_layout == "gate_up" else function_of_packed


def _activation_function(variant: int) -> Callable[..., Tensor]:
    def function(
        x: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, **options: Any
    ) -> Tensor:
        if bias is not None:
            options["bias"] = bias
        return run(x, None, variant, "gate_up", out, options)

    return function


def function_of(name: str, variant: int) -> Callable[..., Tensor]:
    """That of a row."""
    row, like = ROWS[variant], activation.__doc__
    function: Any = _activation_function(variant)
    if isinstance(row, Variant):
        function, like = _unit_function(variant, row.layout), gated.__doc__
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fused_acts"
    function.__signature__ = _signatures.signature(function, variant)
    function.__doc__ = _signatures.docstring(name, variant, function, like)
    function.__prepare_scriptable__ = refuse_script
    made: Callable[..., Tensor] = function
    return made


# swiglu, gelu and the others: one for each row of the tables.
FUNCTIONS = {name: function_of(name, variant) for variant, name in NAMES.items()}
FUNCTIONS |= {alias: FUNCTIONS[name] for alias, name in ALIASES.items()}


def maxout(x: Tensor, pieces: int, dim: int = -1) -> Tensor:
    """out_i = max(x_j over i * pieces <= j < (i + 1) * pieces), along a dimension.

    From Goodfellow et al. 2013, "Maxout Networks", https://arxiv.org/abs/1302.4389. What is kept
    for the backward pass is a byte for each result, the index of the winner in its group, and the
    gradient goes to the winner: the first of equal ones, as in torch.max. NaN wins.

    Args:
        x: [..., cols * pieces], float64, float32, float16 or bfloat16, on the CPU or a CUDA device.
            Any row stride is read in place.
        pieces: how many neighbours make a group, 1 to 256.
        dim: the dimension to reduce. One that is not the last is moved there first, in a copy
            unless its stride is 1, as that of the channels in channels_last.

    Returns:
        [..., cols] in the dtype of x: the values of torch.max, bit for bit. Contiguous if dim is
        the last dimension.

    Raises:
        TypeError: x is no tensor or of another dtype, or pieces or dim is no integer.
        ValueError: pieces is out of range or does not divide the dimension, or x is 0-d.
        IndexError: x has no dimension dim.
    """
    check_tensors(x=x)
    pieces, dim = _checks.integer("pieces", pieces), _checks.integer("dim", dim)
    rank = x.dim()
    if rank and not -rank <= dim < rank:
        raise IndexError(f"dim: expected {-rank} to {rank - 1}, got {dim}")
    last = dim in (-1, rank - 1)
    try:
        out, _ = _maxout(x if last else x.movedim(dim, -1), pieces)
    except FAILURES as error:
        return recover(error, partial(maxout, x, pieces, dim), partial(_explain, x, pieces, dim))
    return out if last else out.movedim(-1, dim)


def _explain(x: Tensor, pieces: int, dim: int) -> Tensor | None:
    if x.is_nested and dim in (-1, x.dim() - 1):
        return _nested.on_values(partial(maxout, pieces=pieces), x=x)
    _checks.check_operand("x", x)
    _checks.check_pieces(pieces)
    _checks.check_groups(x, pieces, dim)
    return None


def softmax_glu(gate: Tensor, up: Tensor) -> Tensor:
    """out_i = exp(gate_i) / sum(exp(gate)) * up_i, the sum over the last dimension.

    A gated linear unit whose gates are in competition: the softmax of Bridle 1990, its maximum and
    sum found in one go as in Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867. One
    kernel forward and one backward, for which gate, up and two numbers a row are kept; no
    probability reaches memory. Derivatives of higher order and of forward mode are composed of
    torch's operations.

    Args:
        gate: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any
            row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once; a probability below the smallest normal number of that may count
        as 0. A row of -inf alone, or with +inf or NaN in it, is NaN, as in torch.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate.
        ValueError: a shape or device does not match, or gate is 0-d.
    """
    check_tensors(gate=gate, up=up)
    if autocasts(gate):
        gate, up = promoted(gate, up)  # type: ignore[assignment]
    try:
        return _softmax_glu(gate, up)[0]
    except FAILURES as error:
        explain = partial(_explain_pair, gate, up)
        return recover(error, partial(softmax_glu, gate, up), explain)


def _explain_pair(gate: Tensor, up: Tensor) -> Tensor | None:
    if gate.is_nested:
        return _nested.on_values(softmax_glu, gate=gate, up=up)
    _checks.check_pair(gate, up)
    return None


# TorchScript asks for this before it reads the source of a function.
_callables: tuple[Any, ...] = (gated, activation, maxout, softmax_glu)
for _function in _callables:
    _function.__prepare_scriptable__ = refuse_script


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along a dimension: torch.softmax itself.

    A single kernel in torch already, so there is nothing here to fuse.

    Args:
        x: any shape and dtype that torch.softmax takes.
        dim: the dimension to sum over.

    Returns:
        A tensor of the shape and dtype of x.
    """
    return torch.softmax(x, dim)
