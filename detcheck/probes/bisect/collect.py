"""What was seen of every call, gathered by kind: an op at one place of all layers. The same for torch's ops and vLLM's modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from detcheck.hashes import content_hash
from detcheck.probes.bisect.facts import Evidence, Kind, Site

LONE = "alone"
MOST_EVIDENCE = 64  # of one kind, that is stored


@dataclass
class _Gathered:
    calls: int = 0
    compared: int = 0
    tested: int = 0
    evidence: list[Evidence] = field(default_factory=list)
    first: Site | None = None


class Kinds:
    """Calls are added in the order in which they ran; `made` gives what judging needs."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, bool], _Gathered] = {}

    def add(
        self,
        op: str,
        path: str,
        module: bool,
        compared: bool,
        tested: bool,
        evidence: Sequence[Evidence],
        site: Callable[[], Site],
    ) -> None:
        """One call. `compared`: with another run or by asking it again; `tested`: by the latter. `site` is asked for the first cause."""
        kind = self._found.setdefault((op, pattern(path), module), _Gathered())
        kind.calls += 1
        kind.compared += compared
        kind.tested += tested
        if evidence and kind.first is None:
            kind.first = site()
        kind.evidence += evidence

    def made(self) -> tuple[Kind, ...]:
        """Modules only where they are a cause: what they do is done by the ops in them."""
        return tuple(
            kind for key, found in self._found.items() if (kind := finished(*key, found)).evidence or not kind.module
        )


def finished(op: str, path: str, module: bool, found: _Gathered) -> Kind:
    shown = sorted(found.evidence, key=lambda each: each.order)
    differing = len({each.order for each in shown})
    numbers = found.calls, found.compared, found.tested, differing
    return Kind(op, path, module, *numbers, tuple(shown[:MOST_EVIDENCE]), found.first)


def evidence(order: int, condition: str, how: str, alone: Sequence[int], batch: Sequence[int]) -> Evidence:
    """Of hashes, which are good in this process alone: they are numbered."""
    numbers = {bits: n for n, bits in enumerate(dict.fromkeys((*alone, *batch)))}
    return Evidence(order, condition, how, tuple(numbers[b] for b in alone), tuple(numbers[b] for b in batch))


def pattern(path: str) -> str:
    """A module's path with its numbers left open: model.layers.*.mlp.down_proj."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def named(bits: np.ndarray) -> str:
    """A name for logits, good anywhere."""
    return content_hash(bits.tobytes())[:16]
