"""Competitors that know no torch: they get its memory, or a copy of it."""

import ctypes
import importlib
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters import Adapter, Call, Operands
from .units import Unit


class ONNX(Adapter):
    """onnxruntime, its operands bound where they are, and its output to memory of its own."""

    packages = ("onnxruntime", "onnx")
    distribution = "onnxruntime"
    # By unit: operators from the first operand on, with their attributes; those without a number
    # are of its own set.
    quick = ("QuickGelu", {"alpha": 1.702})
    chains: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "swiglu": [("QuickGelu", {"alpha": 1.0}), ("Mul", {})],
        "geglu": [("Gelu", {}), ("Mul", {})],
        "geglu_tanh": [("Gelu", {"approximate": "tanh"}), ("Mul", {})],
        "reglu": [("Relu", {}), ("Mul", {})],
        "quick_geglu": [quick, ("Mul", {})],
        "silu": [("QuickGelu", {"alpha": 1.0})],
        "gelu": [("Gelu", {})],
        "gelu_tanh": [("Gelu", {"approximate": "tanh"})],
        "quick_gelu": [quick],
        "gelu(x + bias)": [("BiasGelu", {})],
    }
    own = ("QuickGelu", "BiasGelu")  # in the domain com.microsoft
    types = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}  # numbers of onnx

    def __init__(self) -> None:
        self.runtime = importlib.import_module("onnxruntime")
        self.helper = importlib.import_module("onnx.helper")

    def model(self, unit: Unit, tensors: Operands) -> bytes:
        kind, helper = self.types[tensors[0].dtype], self.helper
        values = [
            helper.make_tensor_value_info(f"in{index}", kind, list(tensor.shape))
            for index, tensor in enumerate(tensors)
        ]
        nodes, name = [], "in0"
        for index, (operator, attributes) in enumerate(self.chains[unit.name]):
            inputs = [name, "in1"] if operator in ("Mul", "BiasGelu") else [name]
            domain = "com.microsoft" if operator in self.own else ""
            name = f"out{index}"
            node = helper.make_node(operator, inputs, [name], domain=domain, **attributes)
            nodes.append(node)
        out = helper.make_tensor_value_info(name, kind, list(tensors[0].shape))
        graph = helper.make_graph(nodes, "unit", values, [out])
        sets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        return model.SerializeToString()  # type: ignore[no-any-return]

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        if unit.name not in self.chains:
            return None
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = self.runtime.InferenceSession(
            self.model(unit, tensors), options, providers=["CPUExecutionProvider"]
        )
        binding, out = session.io_binding(), torch.empty_like(tensors[0])
        kind = self.types[out.dtype]
        for each, value in zip(session.get_inputs(), tensors, strict=True):
            binding.bind_input(each.name, "cpu", 0, kind, list(value.shape), value.data_ptr())
        name = session.get_outputs()[0].name
        binding.bind_output(name, "cpu", 0, kind, list(out.shape), out.data_ptr())

        def call() -> Tensor:
            session.run_with_iobinding(binding)
            return out

        return call


class GGML(Adapter):
    """The library of llama.cpp, as llama-cpp-python builds it for this processor."""

    packages = ("--no-deps", "llama-cpp-python")
    distribution = "llama-cpp-python"
    names = {
        "swiglu": "swiglu_split",
        "geglu": "geglu_erf_split",
        "geglu_tanh": "geglu_split",
        "reglu": "reglu_split",
        "quick_geglu": "geglu_quick_split",
        "swiglu_oai": "swiglu_oai",
        "silu": "silu",
        "gelu": "gelu_erf",
        "gelu_tanh": "gelu",
        "quick_gelu": "gelu_quick",
    }
    types = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}  # numbers of ggml
    only_fp32 = ("swiglu_oai",)

    class Parameters(ctypes.Structure):
        _fields_ = [
            ("mem_size", ctypes.c_size_t),
            ("mem_buffer", ctypes.c_void_p),
            ("no_alloc", ctypes.c_bool),
        ]

    def __init__(self) -> None:
        folder = Path(sysconfig.get_path("purelib"), "llama_cpp", "lib")
        base, cpu = (ctypes.CDLL(str(folder / f"lib{n}.so")) for n in ("ggml-base", "ggml-cpu"))
        self.base = base
        for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_new_graph", "ggml_get_data"):
            getattr(base, name).restype = ctypes.c_void_p
        base.ggml_init.argtypes = [self.Parameters]
        pointer = ctypes.c_void_p
        base.ggml_new_tensor_2d.argtypes = [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        base.ggml_build_forward_expand.argtypes = [pointer, pointer]
        base.ggml_backend_graph_compute.argtypes = [pointer, pointer]
        for name in ("ggml_get_data", "ggml_new_graph", "ggml_free"):
            getattr(base, name).argtypes = [pointer]
        cpu.ggml_backend_cpu_init.restype = pointer
        cpu.ggml_backend_cpu_set_n_threads.argtypes = [pointer, ctypes.c_int]
        self.backend = pointer(cpu.ggml_backend_cpu_init())
        cpu.ggml_backend_cpu_set_n_threads(self.backend, torch.get_num_threads())
        self.context: ctypes.c_void_p | None = None

    def forward(self, unit: Unit, tensors: Operands) -> Call | None:
        x = tensors[0]
        if unit.name not in self.names or (
            unit.name in self.only_fp32 and x.dtype != torch.float32
        ):
            return None
        base, pointer = self.base, ctypes.c_void_p
        if self.context:
            base.ggml_free(self.context)
        size = (len(tensors) + 1) * x.nbytes + 2**20
        self.context = context = pointer(base.ggml_init(self.Parameters(size, None, False)))

        def data(tensor: ctypes.c_void_p) -> Tensor:
            memory = (ctypes.c_char * x.nbytes).from_address(base.ggml_get_data(tensor))
            return torch.frombuffer(memory, dtype=x.dtype).view(x.shape)

        operands = []
        for value in tensors:
            kind = self.types[x.dtype]
            operand = pointer(base.ggml_new_tensor_2d(context, kind, x.shape[1], x.shape[0]))
            data(operand).copy_(value)
            operands.append(operand)
        function = getattr(base, f"ggml_{self.names[unit.name]}")
        function.restype = pointer
        numbers = [ctypes.c_float(1.702), ctypes.c_float(7.0)] if "oai" in unit.name else []
        result = pointer(function(context, *operands, *numbers))
        graph = pointer(base.ggml_new_graph(context))
        base.ggml_build_forward_expand(graph, result)
        out = data(result)

        def call() -> Tensor:
            status = base.ggml_backend_graph_compute(self.backend, graph)
            if status != 0:
                raise RuntimeError(f"ggml says {status}")
            return out

        return call
