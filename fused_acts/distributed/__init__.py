"""Several processes: the operators on DTensors, and styles for parallelize_module.

Importing this registers the sharding rules; the functions of the library do so when they first meet
a DTensor. Not imported with the library, because torch.distributed.tensor takes a second to load.
"""

from fused_acts.distributed import sharding
from fused_acts.distributed.experts import ExpertParallel
from fused_acts.distributed.parallel import PackedColwiseParallel

__all__ = ["ExpertParallel", "PackedColwiseParallel", "sharding"]
