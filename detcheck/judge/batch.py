"""Unequal samples of one system: by the run, by the batch, by padding, or undetermined. Pure."""

from __future__ import annotations

from detcheck.finding import Finding
from detcheck.judge.aspects import only_padding, only_ragged
from detcheck.judge.tally import Tally
from detcheck.verdict import Verdict


def why_they_differ(finding: Finding, tally: Tally) -> tuple[Verdict, str]:
    """The verdict on unequal samples: by the run, by the batch, or undetermined."""
    arms = finding.evidence["arms"]
    if arms["repeat"]:
        noisy = [c for c, found in tally.conditions.items() if c.complete and len(found) > 1]
        which = noisy[0].name if noisy[0].slot is None else f"{noisy[0].name}, slot {noisy[0].slot}"
        also = "; and the batch changes bits too" if arms["batch"] else ""
        return (
            Verdict.RUN_VARIANT,
            f"equal conditions gave different bits (in {len(noisy)} of them, first in {which}){also}",
        )
    mixed = any(len(found) > 1 for c, found in tally.conditions.items() if not c.complete)
    if arms["batch"] and not mixed:
        first, varies = finding.evidence["first_variant_condition"], ", ".join(finding.evidence["varies_with"])
        return (
            Verdict.BATCH_VARIANT,
            f"each condition repeats itself, but conditions differ, first in {first}: the bits depend on {varies}{by_adapters(finding)}{by_padding(finding, tally)}",
        )
    repeated = tally.unseen and all(found.total() > 1 for found in tally.conditions.values())
    why = (
        "the batches behind them are not known in full"
        if mixed or repeated
        else "the conditions that differ were not repeated"
    )
    return Verdict.DIVERGENT, f"bits differ, and it is undetermined whether the run or the batch caused it: {why}"


def by_adapters(finding: Finding) -> str:
    if "adapters" not in finding.evidence["varies_with"]:
        return ""
    return "; the same rows have other bits where neighbours have another adapter than the prompt"


def by_padding(finding: Finding, tally: Tally) -> str:
    """Of padding, where the prompt was also asked for alone with as much of it."""
    if "padding" not in finding.evidence["varies_with"]:
        if not only_ragged(tally):
            return ""
        asked = any(c.fed == "padding" for c in tally.conditions)
        return "; only batches of unequal lengths differ, where rows are padded: " + (
            "the prompt alone, padded, has the bits that it has without, so rows and padding do it together"
            if asked
            else "detcheck batch asks whether padding alone does it"
        )
    said = "; the prompt alone, padded as in the batch, has other bits already"
    if only_padding(tally):
        said += ", and batches without padding have those of the prompt alone"
    if finding.case.kernels == "batch-invariant":
        said += ". Ours leave masked tokens out to the bit, so padding reaches the arithmetic itself: positions, convolutions or states that count it, or, on a GPU, attention that the model writes out"
    return said
