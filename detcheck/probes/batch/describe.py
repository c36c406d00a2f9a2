"""What reports say of a prompt's rows. Pure."""

from __future__ import annotations

from detcheck import samples
from detcheck.blocks import Block
from detcheck.finding import Finding


def describe(finding: Finding) -> tuple[Block, ...]:
    """As of samples, with the positions before the last, where they were observed."""
    return samples.describe(finding, first=before_the_last(finding))


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
