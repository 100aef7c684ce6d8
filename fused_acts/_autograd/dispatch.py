"""Choosing how a differentiable call runs, and helpers for the formulas of its Function."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

Gradients = tuple[Tensor | None, ...]

_compile_form = "kernel"

# Found once: a call on tiny tensors takes as long as a few dozen look-ups.
_transforms_active = torch._C._are_functorch_transforms_active
_is_dynamo = torch.compiler.is_dynamo_compiling
_mode_count = torch._C._len_torch_dispatch_stack
_is_tracing = torch._C._is_tracing


def compile_as(form: str) -> None:
    """Chooses what torch.compile makes of the gated units from now on.

    "kernel", the default: the library's own kernels, which the compiled code calls. "inductor": the
    formula, which Inductor can fuse with its neighbours, such as a norm or an addition; with the
    same single rounding. Code that is already compiled is compiled again when it is next called.

    Raises ValueError for another form.
    """
    global _compile_form
    if form not in ("kernel", "inductor"):
        raise ValueError(f"form: expected kernel or inductor, got {form!r}")
    _compile_form = form


def compiles_to_kernels() -> bool:
    return _compile_form == "kernel"


def raw_apply(function: Any) -> Callable[..., Any]:
    """The C++ apply of a Function, which does all that is needed outside functorch transforms.

    Function.apply binds its arguments through `inspect`, which takes longer than the kernel on
    small tensors.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply
    return apply


def is_recorded() -> bool:
    """Whether torch.export, torch.jit.trace or make_fx records a program, which may be trained.

    What AOTAutograd traces, for torch.compile, has its derivatives in it.
    """
    if torch._C._is_tracing() or torch.compiler.is_exporting():
        return True
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


def is_transformed() -> bool:
    """By functorch, or by a tangent of forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_looked_at() -> bool:
    """Whether something may want to see a call that is not the kernel: see `entry`."""
    return bool(
        _is_dynamo()
        or _transforms_active()
        or forward_ad._current_level >= 0
        or _mode_count()
        or _is_tracing()
    )


def one_node(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one node of Dynamo's graph; what it does is for AOTAutograd to trace.

    So numbers can be told from symbols in it, and autograd is what it is without compilation.
    """

    def allow() -> None:
        torch._dynamo.allow_in_graph(function)

    # Dynamo runs such a function where it meets it. Before that it need not be imported.
    allow._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def call(*args: Any) -> Any:
        allow()
        return function(*args)

    return call


def _as_given(*args: Any) -> Any:
    return args


def entry(
    function: Any,
    transformable: Any,
    decomposition: Callable[..., Any],
    recorded: Callable[..., Any],
    prepare: Callable[..., Any] = _as_given,
    is_recordable: Callable[..., bool] = lambda *args: True,
) -> Callable[..., Any]:
    """A call that Dynamo, functorch, a tangent of forward mode or a dispatch mode looks at.

    recorded: the call as it is to stand in a recorded program. prepare changes the arguments where
    no failure can be mended later; is_recordable tells whether `recorded` takes them.
    """
    apply = raw_apply(function)

    def record(*args: Any) -> Any:
        if is_transformed() or torch.onnx.is_in_onnx_export() or not is_recordable(*args):
            return decomposition(*args)
        return recorded(*args)

    def kernel(*args: Any) -> Any:
        args = prepare(*args)
        if torch.compiler.is_exporting():
            return record(*args)
        if is_transformed():
            return decomposition(*args)
        return apply(*args)

    def formula(*args: Any) -> Any:
        return decomposition(*prepare(*args))

    kernel_node, formula_node = one_node(kernel), one_node(formula)

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return kernel_node(*args) if compiles_to_kernels() else formula_node(*args)
        if is_recorded():
            return record(*prepare(*args))
        return transformable.apply(*args) if is_transformed() else kernel(*args)

    return call


_registry = torch.library.Library("fused_acts", "IMPL")


def register_recorded(
    op: torch._ops.OpOverload,
    backward: Callable[..., Any],
    setup_context: Callable[..., Any],
    decomposition: Callable[..., Any],
    of_rows: int,
    is_one_call: Callable[..., bool] = lambda *args: True,
) -> None:
    """Registers the derivatives, and the vmap, of an operator that recorded programs call.

    As torch.library.register_autograd does, whose kernel refuses functorch's grad, though, and
    loses the tangents of forward mode without an error. There the operator is its decomposition.
    of_rows: how many of its first arguments may have a batch dimension in front, if `is_one_call`
    says that one with such arguments is what a call for each element of the batch is.
    """
    plain = make_autograd_impl(op, Info(backward, setup_context))

    def autograd(keys: Any, *args: Any) -> Any:
        return decomposition(*args) if is_transformed() else plain(keys, *args)

    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        if any(dim is not None for dim in in_dims[of_rows:]) or not is_one_call(*args):
            # One after the other: functorch runs no vmap in that of an operator.
            split = [_unbound(info, dim, arg) for arg, dim in zip(args, in_dims, strict=True)]
            singles = [op(*each) for each in zip(*split, strict=True)]
            if isinstance(singles[0], Tensor):
                return torch.stack(singles), 0
            return tuple(map(torch.stack, zip(*singles, strict=True))), (0,) * len(singles[0])
        results = op(*batch_first(info, in_dims[:of_rows], args[:of_rows]), *args[of_rows:])
        return results, (0,) * len(results) if isinstance(results, tuple) else 0

    _registry.impl(op._opname, autograd, "Autograd", with_keyset=True)
    torch.library.register_vmap(op, vmap)


def dispatcher(
    function: Any,
    transformable: Any,
    decomposition: Callable[..., Any],
    looked_at: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """One differentiable call that takes the cheapest path that is right where it is called.

    function has a backward formula; transformable has jvp and vmap formulas too; decomposition
    consists of torch operations. A call that records nothing needs only the forward of function.
    looked_at: what `entry` makes of them, for those that a user calls.
    """
    apply, bare = raw_apply(function), function.forward
    is_grad_enabled = torch.is_grad_enabled

    def inner(*args: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        if is_transformed():
            # Dynamo takes no Function with a jvp, and in a transform sees no formula at all.
            return decomposition(*args) if compiling else transformable.apply(*args)
        if compiling:
            return function.apply(*args) if compiles_to_kernels() else decomposition(*args)
        return apply(*args) if is_grad_enabled() and require_grad(*args) else bare(*args)

    special = looked_at or inner

    def call(*args: Any) -> Any:
        if is_looked_at():
            return special(*args)
        if is_grad_enabled() and require_grad(*args):
            return apply(*args)
        return bare(*args)

    return call


@contextmanager
def lift_primals(tensors: Sequence[Tensor | None]) -> Iterator[Any]:
    """Lets the body of a jvp formula be differentiated forward by the transforms around it.

    Functions turn forward mode off in a jvp formula, for the levels around it too, and then their
    tangents would silently be zero. Yields the tensors without the tangents of the current level.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield [None if t is None else forward_ad.unpack_dual(t).primal for t in tensors]


def batch_first(
    info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]
) -> Iterator[Tensor | None]:
    """The tensors with the batch dimension in front; a tensor that has none is expanded."""
    for tensor, dim in zip(tensors, in_dims, strict=True):
        if tensor is None:
            yield None
        elif dim is None:
            yield tensor.expand(info.batch_size, *tensor.shape)
        elif tensor.dim() == 1:
            raise ValueError("gate: expected at least one dimension under vmap, got a 0-d tensor")
        else:
            yield tensor.movedim(dim, 0)


def _unbound(info: Any, dim: int | None, arg: Any) -> Sequence[Any]:
    """What each element of the batch has as an argument."""
    return [arg] * info.batch_size if dim is None else arg.unbind(dim)


def vmap_decomposition(
    function: Callable[..., Any], info: Any, in_dims: Sequence[Any], args: Sequence[Any]
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """The vmap of a function of torch operations, some of whose results may be None."""
    present = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    absent: list[bool] = []

    def of_present(*tensors: Tensor) -> tuple[Tensor, ...]:
        every = list(args)
        for index, tensor in zip(present, tensors, strict=True):
            every[index] = tensor
        results = function(*every)
        absent[:] = [result is None for result in results]
        return tuple(result for result in results if result is not None)

    dims = tuple(in_dims[i] for i in present)
    batched = torch.vmap(of_present, dims, randomness=info.randomness)
    results = iter(batched(*(args[i] for i in present)))
    outputs = tuple(None if gone else next(results) for gone in absent)
    return outputs, tuple(None if gone else 0 for gone in absent)


def has_tangent(tensor: Tensor | None) -> bool:
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


def require_grad(*args: Any) -> bool:
    for arg in args:  # noqa: SIM110  # `any` takes twice as long
        if isinstance(arg, Tensor) and arg.requires_grad:
            return True
    return False
