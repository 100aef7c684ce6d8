"""Units of one's own: `define` compiles an expression into kernels with all derivatives."""

import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_acts import _rows
from fused_acts._definitions import build, trial
from fused_acts._definitions.compile import Output
from fused_acts._definitions.definition import Definition, make_definition
from fused_acts._formulas import identity
from fused_acts.functional import FUNCTIONS
from fused_acts.tables import ACTIVATIONS, ALIASES, Activation, Variant

SOURCE = "a unit of one's own"
_lock = threading.RLock()


class Defined(NamedTuple):
    """What modules keep of a unit; it is defined again where one is unpickled."""

    definition: Definition
    reference: Callable[..., Tensor] | None
