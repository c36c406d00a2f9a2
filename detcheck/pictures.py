"""What pages draw of samples that were compared, beside what is said of them in words. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from detcheck.blocks import Block, Column, Curve, Matrix, Survival, Texts
from detcheck.finding import Finding, Variant
from detcheck.text import visible

OTHERS = "others"  # as judging counts the outcomes that have no name


def which_gave_which(finding: Finding) -> Iterator[Block]:
    """The matrix of conditions and outcomes."""
    found = finding.evidence.get("outcomes")
    if not found:
        return
    counts = found["conditions"]
    asked = finding.evidence.get("conditions") or {}
    names = [*(name for name in asked if name in counts), *(name for name in counts if name not in asked)]
    before = (None, *(v.group for v in finding.variants))
    columns = tuple(
        Column(v.name, v.group, about(v, finding), v.group == group)
        for v, group in zip(finding.variants, before, strict=False)
    )
    keys = [*(v.name for v in finding.variants), OTHERS]
    lines = tuple((visible(name), tuple(counts[name].get(key, 0) for key in keys)) for name in names)
    yield Matrix("Which condition gave which outcome", columns, lines, found["others"])


def about(variant: Variant, finding: Finding) -> str:
    """What tells it from the most common one."""
    unit = str(finding.evidence.get("unit") or "token")
    if unit in ("element", "word"):
        return "the most common bits" if variant.group == 0 else "other bits"
    if variant.leaves is None and variant.leaves_bits is None:
        return "the most common"
    if variant.leaves is not None:
        return f"other {unit}s from {variant.leaves} on"
    ends = variant.leaves_bits >= variant.length
    return (
        "the same, but it ends for another reason"
        if ends
        else f"the same {unit}s, other bits from {variant.leaves_bits} on"
    )


def along_the_tokens(finding: Finding, unit: str) -> Iterator[Block]:
    """How many samples are still the same, and how far the log-probabilities of shared tokens are apart."""
    if not finding.variants or finding.evidence.get("unit") in ("element", "word"):
        return
    compared = {f"{unit}s": finding.histogram}
    if finding.evidence.get("compared") in ("bits", "digits"):
        compared["log-probabilities too"] = finding.histogram_bits
    lines = []
    for what, leaving in compared.items():
        left = itertools.accumulate((n for _, n in leaving), lambda rest, n: rest - n, initial=finding.samples)
        lines.append((what, tuple(zip((place for place, _ in leaving), list(left)[1:], strict=True))))
    if any(steps for _, steps in lines):
        length = max((v.length for v in finding.variants), default=0)
        yield Survival("Samples that are still the most common one", unit, finding.samples, length, tuple(lines))
    if points := finding.evidence.get("along"):
        title = "How far log-probabilities of shared tokens are apart"
        yield Curve(title, unit, "nats", tuple((place, mean, most) for place, mean, most, _ in points), on_pages=True)


def what_they_say(finding: Finding, unit: str) -> Iterator[Block]:
    """The texts, where there are two."""
    groups: dict[int, list[Variant]] = {}
    for variant in finding.variants:
        groups.setdefault(variant.group, []).append(variant)
    texts = tuple(  # of equal tokens one, with the samples of all
        replace(several[0], name=several[0].name.rstrip("0123456789"), samples=sum(v.samples for v in several))
        for several in groups.values()
    )
    if len(texts) > 1 and any(v.text for v in texts):
        yield Texts(texts, unit)
