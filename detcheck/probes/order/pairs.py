"""Every pair of summands of a product asked about: does each meet its partner where the revealed order says?

The huge number of one stands in the weight, in a column of its own, and the negative one of the other in x, in a row of its own: one
call of M rows and N columns asks M x N pairs.
"""

from __future__ import annotations

import numpy as np

from detcheck.probes.order.counting import MASKS, in_dtype
from detcheck.probes.order.facts import Place, Proved
from detcheck.probes.order.sums import Sums
from detcheck.summation.arithmetic import MANTISSA
from detcheck.summation.tree import Tree

FORMS = ("linear", "mm")  # whose x[M, K] has a row of its own for each row of the result
DTYPES = ("float64", "float32", "bfloat16")  # float16 has no room for a huge number times one


def prove(sums: Sums, place: Place, tree: Tree) -> Proved | None:
    """Of every pair, where it meets. Raises OpError. The tensors are left as they come.

    Counts that the result's dtype rounds are compared as it rounds them. None: they are scaled too, by what is no power of two.
    """
    unit, huge = MASKS[sums.dtype][0]
    scale = sums.scale * unit
    if np.frexp(abs(scale))[0] != 0.5 and sums.precision < MANTISSA["float32"]:
        return None
    n, table, unlike = sums.length, tree.table(), 0
    sums.fill(unit)
    slots, rows = sums.slots_of(place), np.asarray(place.rows)
    x = sums.factors
    x.fill_(1.0)
    for begin in range(0, n, len(slots)):
        i = np.arange(begin, min(begin + len(slots), n))
        at = slots[: len(i)]
        sums.put(at, i, huge)
        for first in range(0, n, len(rows)):
            j = np.arange(first, min(first + len(rows), n))
            x[rows[: len(j)], j] = -huge / unit
            came = sums.result()[np.ix_(rows[: len(j)], at)]
            x[rows[: len(j)], j] = 1.0
            counts = (n - table[begin : i[-1] + 1, first : j[-1] + 1]).astype(np.float64).T
            if np.frexp(abs(scale))[0] == 0.5:
                differs = came != in_dtype(counts * scale, sums.out)
            else:
                differs = np.round(came / scale) != counts
            unlike += int((differs & (j[:, None] != i)).sum())
        sums.put(at, i, unit)
    return Proved(n * (n - 1), unlike)
