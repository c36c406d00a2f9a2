"""Whether attention with a program for each split gives the bits that it gives at one go.

attention.py says why they are expected to be equal. That is no proof of it: the two ways are other binaries. So the device at hand is
asked for the bits of both, on data whose order of addition shows, before the second way is taken; where they differ it never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from detcheck.kernels._cpu.fallback import bits_equal
from detcheck.kernels._triton import attention_tiles
from detcheck.kernels._triton.tiles import holds

if TYPE_CHECKING:
    import torch

    Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]

MANY = 64  # requests of the data on which they are compared
_agreed: dict[tuple[object, ...], bool] = {}  # what was found, of this process


def agree(q: torch.Tensor, group: int, shared: int, kind: tuple[bool, int, int], attend: Attend) -> bool:
    """Whether q's device gives the same bits both ways, for few rows of that kind of attention.

    kind: a soft cap or none, keys of a block (0: in one piece), window (0: none). attend(q, k, v, ends, split): attention of that kind,
    where request b has the keys before ends[b]. It is asked once for each kind, with the binaries that would run, and never while a
    graph is captured: until then it is one go.
    """
    import torch

    key = (str(q.device), q.dtype, q.shape[-1], group, shared, *kind)
    if key in _agreed:
        return _agreed[key]
    if q.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    found = holds(lambda: _same(q, group, shared, attend))
    if found is not None:
        _agreed[key] = found
    return bool(found)


def _same(q: torch.Tensor, group: int, shared: int, attend: Attend) -> bool:
    import torch

    for given in telling(group, shared, q.shape[-1]):
        wide, k, v = (t.to(q.dtype).to(q.device) for t in given)
        ends = torch.tensor([k.shape[2], k.shape[2] // 2, 2])[torch.arange(len(wide)) % 3].to(q.device).int()
        if not bits_equal(*(attend(wide, k, v, ends, split) for split in (False, True))):
            return False
    return True


def telling(group: int, shared: int, dim: int) -> list[tuple[torch.Tensor, ...]]:
    """q[B, shared group, L, D], k, v[B, shared, S, D] in which an order of addition shows, though results are in half precision.

    Scores span many powers of 2 in some requests, so that maxima move from split to split. In the first two each key is there twice, with
    values that cancel: of the sums of values nothing is left but what was rounded on the way. What they are divided by shows in the
    last bit of one result in ten thousand, so the third has many. L: as many queries as few rows hold.
    """
    import torch

    split, generator, made = attention_tiles.SPLIT, torch.Generator().manual_seed(0), []
    many, length = max(3, 2 * MANY // shared), 2 if 2 * group <= attention_tiles.FEW else 1
    for requests, keys, cancels in ((3, 2 * split + 2, True), (3, 8 * split - 4, True), (many, 2 * split + 2, False)):
        unlike = 2.0 ** (torch.arange(requests) % 3)[:, None, None, None]
        sizes = ((requests, shared * group, length, dim), *[(requests, shared, keys // 2, dim)] * 2)
        q, k, v = (torch.randn(size, generator=generator) * unlike for size in sizes)
        order = torch.randperm(keys, generator=generator)
        k, v = torch.cat([k, k], 2)[:, :, order], torch.cat([v, -v if cancels else v], 2)[:, :, order]
        made.append((q, k, v))
    return made
