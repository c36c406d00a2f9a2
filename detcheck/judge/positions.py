"""Logits at every position of a prompt: at which of them do samples differ, and how far are they from the prompt alone. Pure, no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from detcheck.records import Outcome


def positions(found: Collection[Outcome]) -> dict[str, object] | None:
    """None: there are none, or only the last was observed. `max_ulp` and `max_abs` are of positions before the last."""
    if not found or any(o.positions is None or o.names for o in found):
        return None
    first = next(iter(found))
    differs = np.any([o.positions != first.positions for o in found], axis=0)  # [n]
    last = any(not np.array_equal(o.tokens, first.tokens) for o in found)
    everywhere = np.flatnonzero([*differs, last])
    seen = {
        "of": len(differs) + 1,
        "differing": len(everywhere),
        "first": int(everywhere[0]) if len(everywhere) else None,
        "last_differs": last,
    }
    apart = np.stack([o.apart for o in found])  # [outcomes, 2, n]
    for name, numbers in zip(("max_ulp", "max_abs"), apart.transpose(1, 0, 2), strict=True):
        if (moved := numbers[np.isfinite(numbers) & (numbers != 0)]).size:
            seen[name] = float(moved.max())
    return seen


def note(evidence: Mapping[str, object]) -> str:
    """What a finding's note adds where they differ."""
    seen = evidence.get("positions")
    if not seen or not seen["differing"]:
        return ""
    which = f"the first is {seen['first']}" if seen["differing"] > 1 else f"it is {seen['first']}"
    last = "" if seen["last_differs"] else ", and those behind the last token are equal"
    return f"; logits differ at {seen['differing']} of the prompt's {seen['of']} positions, {which}{last}"
