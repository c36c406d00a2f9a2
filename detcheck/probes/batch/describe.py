"""What reports say of a prompt's rows. Pure."""

from __future__ import annotations

from detcheck import samples
from detcheck.blocks import Block
from detcheck.finding import Finding
from detcheck.judge.ranks import Swap

SHOWN = 3  # changes of place


def describe(finding: Finding) -> tuple[Block, ...]:
    """As of samples, with the positions before the last and the order by score, where they were observed."""
    return samples.describe(finding, first=(*before_the_last(finding), *order(finding)))


def order(finding: Finding) -> tuple[str, ...]:
    """Of several prompts with a score each: whether this one changes places with another."""
    seen = finding.evidence.get("order")
    if not seen:
        return ()
    if not seen["swaps"]:
        return (f"by score it keeps its place among the {seen['prompts']} prompts in every condition",)
    lines = [str(Swap(**swap)) for swap in seen["swaps"]]
    more = (f"... and {len(lines) - SHOWN} more; report.json has all",) if len(lines) > SHOWN else ()
    return (*lines[:SHOWN], *more)


def before_the_last(finding: Finding) -> tuple[str, ...]:
    """A fact a line."""
    seen = finding.evidence.get("positions")
    if not seen:
        return ()
    if not seen["differing"]:
        return (f"logits are equal at all {seen['of']} positions of the prompt",)
    where = (
        f"first at {seen['first']} (counted from 0)"
        if seen["differing"] > 1
        else f"at {seen['first']} (counted from 0)"
    )
    lines = [f"logits differ at {seen['differing']} of {seen['of']} positions of the prompt, {where}"]
    if "max_abs" in seen:
        lines.append(
            f"before the last position they are up to {seen['max_abs']:.3g} ({seen['max_ulp']:.0f} ulp) from those of the prompt alone"
        )
    if not seen["last_differs"]:
        lines.append("at the last position they are equal, so the next token is too")
    return tuple(lines)
