"""Stands in for the row operands of the unit until they are there."""
import torch
from fused_acts._autograd import decompositions
from fused_acts._call import is_unary
from fused_acts._layouts import pack, unpack


def gated(gate, up, gate_bias, up_bias, parameter, row_weight, offs, call):
    n = gate.shape[0]
    if n == 0:
        return unpack(gate, call.layout)[0] if up is None and not is_unary(call.variant) else gate
    rows = torch.arange(n, device=gate.device)
    e = torch.searchsorted(offs, rows.int(), right=True).clamp(max=offs.shape[0] - 1)
    live = (rows < offs[-1])[:, None]
    storage = gate.dtype
    real = torch.promote_types(storage, torch.float32)
    if up is None and not is_unary(call.variant):
        gate, up = unpack(gate, call.layout)
    gate = torch.where(live, gate.to(real), 0)
    gate = gate if gate_bias is None else gate + gate_bias[e].to(real)
    if up is not None:
        up = torch.where(live, up.to(real), 0)
        up = up if up_bias is None else up + up_bias[e].to(real)
    out = decompositions.forward(gate, up, None, None, parameter, call._replace(layout=0))
    if row_weight is not None:
        out = out * row_weight.to(real)[:, None]
    return torch.where(live, out.to(storage), 0)


def backward_inplace(grad_out, gate, up, gate_bias, up_bias, parameter, row_weight, offs, call, needs, product):
    with torch.enable_grad():
        tensors = [None if t is None else t.detach().clone().requires_grad_() for t in (gate, up, gate_bias, up_bias, parameter, row_weight)]
        out = gated(*tensors, offs, call)
        wanted = [t for t in tensors if t is not None]
        live = (torch.arange(gate.shape[0]) < offs[-1])[:, None]
        grads = iter(torch.autograd.grad(out, wanted, torch.where(live, grad_out, 0), allow_unused=True))
    grads = [None if t is None else next(grads) for t in tensors]
    if needs & 1:
        gate.data.copy_(grads[0])
    if product:
        grad_out.data.copy_(out.detach())
    empty = gate.new_empty(0)
    return tuple(empty if g is None or not needs >> i + 2 & 1 else g for i, g in enumerate(grads[2:]))
