"""Gradients of a prompt's loss: of which parameters do samples differ, which is the first, and by how much. Pure, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from detcheck.bits import floats_of
from detcheck.records import Outcome


def gradients(found: Collection[Outcome]) -> dict[str, object] | None:
    """None: none were observed. `first` is in the order of the backward pass, from the loss on; distances are from the prompt alone."""
    if not found or not all(o.names for o in found):
        return None
    first = next(iter(found))
    if any(o.names != first.names for o in found):  # the backward passes themselves were unlike
        return {"of": len(first.names), "differing": len(first.names), "first": first.names[0]}
    differs = np.flatnonzero(np.any([o.positions != first.positions for o in found], axis=0))
    seen: dict[str, object] = {"of": len(first.names), "differing": len(differs)}
    if not len(differs):
        return seen
    apart = np.stack([np.where(np.isfinite(o.apart), o.apart, 0.0) for o in found]).max(0)  # [2, n]
    far = differs[np.argmax(apart[1, differs])]
    seen |= {"first": first.names[differs[0]], "furthest": first.names[far]}
    for where, place in (("first", differs[0]), ("furthest", far)):
        seen |= {f"{where}_ulp": float(apart[0, place]), f"{where}_abs": float(apart[1, place])}
    return seen


def doubts(found: Collection[Outcome]) -> Iterator[str]:
    """Why equal ones are no pass: an outcome's elements are those of the gradient of the prompt's first token."""
    if not found or not all(o.names and o.dtype for o in found):
        return
    numbers = [floats_of(o.tokens, o.dtype) for o in found]
    if not any((np.isfinite(n) & (n != 0)).any() for n in numbers):
        yield "no number in the gradient of the prompt's first token is finite and not zero, so equal bits say nothing of the backward pass"


def note(evidence: Mapping[str, object]) -> str:
    """What a finding's note adds where they differ."""
    seen = evidence.get("gradients")
    if not seen or not seen["differing"]:
        return ""
    return f"; {seen['differing']} of the prompt's {seen['of']} gradients differ, in the order of the backward pass first that of {seen['first']}"
