"""Which token goes to which expert: between tokens, their slots and rows that are sorted by expert.

A slot is one of the k experts of a token: slot t * k + j. Sorted by expert they are rows, as
`grouped` takes them; those of no expert, with ids outside of [0, experts), come last.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fused_acts._autograd import dispatch, grouped


class Routing(NamedTuple):
    order: Tensor  # [tokens * k]: the slot that is each row
    offs: Tensor  # int32 [experts]: the end of each expert's rows
    shape: torch.Size  # [tokens, k]

    @classmethod
    def of(cls, ids: Tensor, experts: int) -> "Routing":
        flat = ids.flatten().long()  # whose type may be too narrow for `experts`
        # Not by bincount, whose result torch would have to wait for on a GPU.
        owner = torch.where((flat >= 0) & (flat < experts), flat, experts).int()
        ranked, order = torch.sort(owner, stable=True)
        every = torch.arange(experts, dtype=torch.int32, device=ids.device)
        offs = torch.searchsorted(ranked, every, right=True, out_int32=True)
        return cls(order, offs, ids.shape)

    def rows(self, tokens: Tensor) -> Tensor:
        """[tokens, d] to a row a slot."""
        return tokens.index_select(0, self.order // self.shape[1])

    def rows_of_slots(self, tokens: Tensor) -> Tensor:
        """The same to differentiate: whose gradient is a sum in float32, in order."""
        slots = tokens.unsqueeze(1).expand(-1, self.shape[1], -1).flatten(0, 1)
        return slots.index_select(0, self.order)

    def sorted(self, slots: Tensor) -> Tensor:
        """[tokens, k] to a value a row."""
        return slots.flatten().index_select(0, self.order)

    def _row_of_slot(self) -> Tensor:
        every = torch.arange(self.order.shape[0], device=self.order.device)
        return torch.zeros_like(self.order).scatter(0, self.order, every)

    def slots(self, rows: Tensor) -> Tensor:
        """What belongs to rows, [tokens * k, ...], as [tokens, k, ...]."""
        return rows.index_select(0, self._row_of_slot()).view(*self.shape, *rows.shape[1:])

    def summed(self, rows: Tensor) -> Tensor:
        """[tokens, d]: the sum of each token's rows, rounded once, without those of no expert.

        May write 0 over these.
        """
        if not rows.is_cpu or not rows.shape[0] or dispatch.is_looked_at():
            return self.slots(rows.masked_fill_(~grouped.live_rows(rows, self.offs), 0.0)).sum(1)
        # In one pass. The first row of no expert, if there is one, stands for all of them.
        end = int(self.offs[-1])
        index = self._row_of_slot().clamp(max=end).view(self.shape)
        skipped = end if end < rows.shape[0] else None
        # In float32, for in bfloat16 it may not round ties to even.
        real = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return embedding_bag(index, real, mode="sum", padding_idx=skipped).to(rows.dtype)
