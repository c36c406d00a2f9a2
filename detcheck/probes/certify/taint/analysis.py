"""Can the batch reach the order in which a kernel adds? A pass over its intermediate code.

Every value carries what of the batch it depends on, and how. A program's id, or an offset, that is *uniform* over a tile only
says which rows are read, and is harmless. Harm is in the *pattern*: along an axis (of a tile, or the iterations of a loop that
accumulates) the way a value varies depends on the batch: a mask, a start that wraps around, a loop's bound. A pattern along an
axis that is added up means that the batch decides what is added when. Along the axis of rows it is the usual mask of rows
that are not there.

Sources of the batch: the arguments that the signature names, what is loaded through pointers it names, the number of programs,
and the ids of programs along the axes it names. What is found has its line; what the pass does not know is
unclear, never taken for harmless.
"""

from __future__ import annotations

from detcheck.probes.certify.taint.control import ControlFlow
from detcheck.probes.certify.taint.memory import Memory
from detcheck.probes.certify.taint.shapes import Shapes
from detcheck.probes.certify.taint.walk import Against

__all__ = ["Against", "Pass"]


class Pass(Shapes, Memory, ControlFlow):
    """One function, walked through until nothing changes: `run`."""
