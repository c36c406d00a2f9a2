"""What reports say of a prompt's rows. Pure."""

from __future__ import annotations

from detcheck import samples
from detcheck.blocks import Block
from detcheck.finding import Finding
from detcheck.judge.ranks import Swap

SHOWN = 3  # changes of place


def describe(finding: Finding) -> tuple[Block, ...]:
    """As of samples, with the positions before the last and the order by score, where they were observed."""
    return samples.describe(finding, first=(*before_the_last(finding), *of_gradients(finding), *order(finding)))


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


def of_gradients(finding: Finding) -> tuple[str, ...]:
    """A fact a line."""
    seen = finding.evidence.get("gradients")
    if not seen:
        return ()
    if not seen["differing"]:
        return (f"all {seen['of']} gradients are equal: of the prompt's inputs, and of each parameter",)
    lines = [
        f"{seen['differing']} of {seen['of']} gradients differ; in the order of the backward pass the first is that of {seen['first']}"
    ]
    if "first_abs" in seen:
        lines[0] += f", by up to {seen['first_abs']:.3g} ({seen['first_ulp']:.0f} ulp) from the prompt alone"
    if seen.get("furthest", seen["first"]) != seen["first"]:
        lines.append(
            f"furthest is that of {seen['furthest']}: {seen['furthest_abs']:.3g} ({seen['furthest_ulp']:.0f} ulp)"
        )
    return tuple(lines)


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
