"""The lines and columns of docs/support.md: what is tried, and how."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from cases import ACTIVATIONS, ROWS, VARIANTS, operands, random, to_device
from ffn_cases import composed
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
from torch.nn.functional import linear

import fused_acts
from fused_acts import reference
from fused_acts.nn import FFN, GatedFFN, GatedLinear

ROW_COUNT, COLS, D_FF = 8, 6, 4
OFFSETS = (0, 3, ROW_COUNT)  # of the parts of a nested tensor


class Function(nn.Module):
    """A function of tensors, with further arguments of its own."""

    def __init__(self, function: Callable[..., Tensor], parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, **dict(self.named_parameters()))


class Composed(nn.Module):
    """A module of the library, computed by the reference from its parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.module, (FFN, GatedFFN)):
            return composed(self.module, x)
        return reference.gated(linear(x, self.module.weight, self.module.bias), variant="glu")


class Line(NamedTuple):
    name: str
    inputs: int  # tensors
    make: Callable[..., nn.Module]  # of the library if `ours`, else of the reference
    biases: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()  # that can be learned
    rows: bool = False  # whether they may have values of their own
    is_module: bool = False


def _unit(name: str) -> Line:
    def make(ours: bool, **parameters: Tensor) -> nn.Module:
        function = fused_acts.gated if ours else reference.gated
        return Function(partial(function, variant=name), parameters)

    return Line(name, 2, make, ("gate_bias", "up_bias"), tuple(ROWS[name].parameters), True)


def _activation(name: str) -> Line:
    def make(ours: bool, **parameters: Tensor) -> nn.Module:
        function = fused_acts.activation if ours else reference.activation
        return Function(partial(function, name=name), parameters)

    return Line(name, 1, make, ("bias",), tuple(ROWS[name].parameters), True)


def _maxout(ours: bool) -> nn.Module:
    return Function(partial((fused_acts if ours else reference).maxout, pieces=2), {})


def _softmax_glu(ours: bool) -> nn.Module:
    return Function((fused_acts if ours else reference).softmax_glu, {})


def _of_rows(name: str, **sizes: int) -> Line:
    """A unit of whole rows with the parameters that it always has."""

    def make(ours: bool) -> nn.Module:
        parameters = {
            parameter: random(size, dtype=torch.float64, seed=11 + i)
            for i, (parameter, size) in enumerate(sizes.items())
        }
        return Function(getattr(fused_acts if ours else reference, name), parameters)

    return Line(name, 2, make)


def _module(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def make(ours: bool, **biases: Tensor) -> nn.Module:
        torch.manual_seed(0)
        module = kind(COLS, D_FF, bias=bool(biases), dtype=torch.float64)
        return module if ours else Composed(module)

    return make


LINES = {
    line.name: line
    for line in (
        *map(_unit, VARIANTS),
        *map(_activation, ACTIVATIONS),
        Line("maxout", 1, _maxout),
        Line("softmax_glu", 2, _softmax_glu),
        _of_rows("rms_norm_gated", weight=COLS),
        _of_rows("polynorm_glu", coefficients=3, bias=1),
        _of_rows("topk_geglu"),
        Line("GatedFFN", 1, _module(GatedFFN), ("bias",), is_module=True),
        Line("FFN", 1, _module(FFN), ("bias",), is_module=True),
        Line("GatedLinear", 1, _module(GatedLinear), ("bias",), is_module=True),
    )
}


# ---- Columns: functions of a module and its inputs ----


def forward(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return module(*inputs)


def backward(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    out = module(*inputs)
    grads = torch.autograd.grad(out.square().sum(), [*inputs, *module.parameters()])
    return [out, *grads]


def double_backward(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    leaves = [*inputs, *module.parameters()]
    grads = torch.autograd.grad(module(*inputs).square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)


def _functional(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Callable, list[Tensor]]:
    """A function of the inputs and the parameters, and these."""
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def function(*tensors: Tensor) -> Tensor:
        named = dict(zip(parameters, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(module, named, tensors[: len(inputs)])

    return function, [*(tensor.detach() for tensor in inputs), *parameters.values()]


def jvp(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    function, tensors = _functional(module, inputs)
    return torch.func.jvp(function, tuple(tensors), tuple(tensor * 0.5 for tensor in tensors))


def vmap(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    function, tensors = _functional(module, inputs)
    argnums = tuple(range(len(tensors)))
    per_row = torch.func.grad(lambda *row: function(*row).square().sum(), argnums)
    in_dims = (0,) * len(inputs) + (None,) * (len(tensors) - len(inputs))
    return torch.vmap(per_row, in_dims)(*tensors)


def compiled(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    torch._dynamo.reset()
    # Tracing is in question here, not the code that Inductor makes of the rest.
    traced = torch.compile(module, backend="aot_eager", fullgraph=True)
    return backward(traced, inputs)


def bias(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return backward(module, inputs)  # of a module that has biases


def learned_parameter(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """One value a channel, and one for all."""
    results = backward(module, inputs)
    for name, parameter in [*module.named_parameters()]:
        setattr(module, name, nn.Parameter(parameter[0].detach()))
    return [*results, *backward(module, inputs)]


def row_weight(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return backward(module, inputs)  # of a module that has a weight for each row


def experts(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Biases of two experts, with rows that are neither's."""
    offs = torch.tensor([3, ROW_COUNT - 1], dtype=torch.int32, device=inputs[0].device)
    module.function = partial(module.function, offs=offs, padding="zero")
    return backward(module, inputs)


def export(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return backward(torch.export.export(module, tuple(inputs)).module(), inputs)


def jit_trace(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    return backward(torch.jit.trace(module, tuple(inputs)), inputs)


def autocast(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    module = module.float()
    inputs = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with torch.autocast(inputs[0].device.type, torch.bfloat16):
        out, *grads = backward(module, inputs)
    multiplies = not isinstance(module, Function)
    assert out.dtype == (torch.bfloat16 if multiplies else torch.float32)
    return [out.double(), *(grad.double() for grad in grads)]


def nested(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    offsets = torch.tensor(OFFSETS, device=inputs[0].device)
    make = torch.nested.nested_tensor_from_jagged
    inputs = [make(tensor.detach(), offsets).requires_grad_() for tensor in inputs]
    out = module(*inputs)
    leaves = [*inputs, *module.parameters()]
    results = [out, *torch.autograd.grad(out.values().square().sum(), leaves)]
    return [each.values() if each.is_nested else each for each in results]


def dtensor(module: nn.Module, inputs: Sequence[Tensor], mesh: Any) -> Any:
    """Split by rows, with parameters in each process."""
    inputs = [distribute_tensor(t.detach(), mesh, [Shard(0)]).requires_grad_() for t in inputs]
    module = distribute_module(module, mesh)
    return [each.full_tensor() for each in backward(module, inputs)]


class All(nn.Module):
    """All lines in one, for what takes long to make a program of."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = nn.ModuleList(line.make(True) for line in LINES.values())

    def forward(self, gate: Tensor, up: Tensor) -> list[Tensor]:
        counts = [line.inputs for line in LINES.values()]
        return [m(*(gate, up)[:n]) for m, n in zip(self.lines, counts, strict=True)]


def all_in_one() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    gate, up = inputs_on("cpu", 2)
    return All().float().eval(), (gate.detach().float(), up.detach().float())


def aotinductor(folder: str) -> dict[str, Tensor]:
    """The outputs of all lines."""
    module, inputs = all_in_one()
    with torch.no_grad():
        program = torch.export.export(module, inputs)
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/all.pt2")
        outs = torch._inductor.aoti_load_package(path)(*inputs)
    return dict(zip(LINES, outs, strict=True))


def onnx(folder: str) -> dict[str, Tensor]:
    """The outputs of all lines."""
    import onnxruntime

    module, inputs = all_in_one()
    path = f"{folder}/all.onnx"
    torch.onnx.export(module, inputs, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    given = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
    outs = map(torch.from_numpy, session.run(None, given))
    return dict(zip(LINES, outs, strict=True))


IN_ONE = (aotinductor, onnx)
COLUMNS = {
    "forward": forward,
    "backward": backward,
    "double backward": double_backward,
    "jvp": jvp,
    "vmap": vmap,
    "bias": bias,
    "learned parameter": learned_parameter,
    "row weight": row_weight,
    "experts": experts,
    "autocast": autocast,
    "compile": compiled,
    "export": export,
    "AOTInductor": aotinductor,
    "jit.trace": jit_trace,
    "ONNX": onnx,
    "nested": nested,
    "DTensor": dtensor,
}
# What the reference computes instead, where that is not the same.
EXPECTED = dict.fromkeys(IN_ONE, forward)
EXPECTED |= dict.fromkeys((compiled, export, jit_trace, autocast, nested, dtensor), backward)


def has(line: Line, column: Callable[..., Any]) -> bool:
    """Whether there is something to try."""
    if column is learned_parameter:
        return bool(line.parameters)
    if column in (row_weight, experts):
        return line.rows
    return column is not bias or bool(line.biases)


def inputs_on(device: str, count: int) -> list[Tensor]:
    both = operands(ROW_COUNT, COLS, dtype=torch.float64)[:count]
    return [to_device(tensor, device).requires_grad_() for tensor in both]


def module_on(device: str, line: Line, column: Callable[..., Any], ours: bool) -> nn.Module:
    names, shape = (), (COLS,)
    if column is row_weight:
        names, shape = ("weight",), (ROW_COUNT,)
    elif column is experts:
        names, shape = line.biases, (2, COLS)
    elif column in (bias, learned_parameter):
        names = line.biases if column is bias else line.parameters
    rows = {n: random(*shape, dtype=torch.float64, seed=11 + i) for i, n in enumerate(names)}
    return line.make(ours, **rows).to(device)
