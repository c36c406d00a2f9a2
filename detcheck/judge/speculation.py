"""Speculative decoding: were tokens drafted, and any of them accepted? Else equal bits are those of plain decoding. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from detcheck.judge.tally import Tally


def seen(tally: Tally) -> dict[str, dict[str, object]]:
    """Evidence; {} where the engine drafts nothing, or does not tell."""
    if not tally.speculation:
        return {}
    total = sum(tally.speculation.values(), Counter(drafted=0, accepted=0))
    plain = [name for name, found in tally.speculation.items() if not found["accepted"]]
    return {"speculation": {"drafted": total["drafted"], "accepted": total["accepted"], "plain": plain}}


def doubt(evidence: Mapping[str, object]) -> str:
    """Why equal samples are no pass; "" where there is no reason."""
    found = evidence.get("speculation")
    if not found or (found["accepted"] and not found.get("plain")):
        return ""
    if found["accepted"]:
        return f"no drafted token was accepted in {', '.join(found['plain'])}, so that these were plain decoding: ask for more --max-tokens"
    what = f"none of {found['drafted']} drafted tokens was accepted" if found["drafted"] else "no token was drafted"
    return f"{what}, so that this was plain decoding: give a prompt whose continuation repeats, more --max-tokens, or another drafter"


def said(evidence: Mapping[str, object]) -> str:
    found = evidence.get("speculation")
    return f"; {found['accepted']} of {found['drafted']} drafted tokens were accepted" if found else ""
