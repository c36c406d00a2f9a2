"""What reports say of given tokens that were scored. Pure."""

from __future__ import annotations

from detcheck import samples
from detcheck.blocks import Block
from detcheck.finding import Finding
from detcheck.spec import Kernels

WIDTH = (
    "Rows are filled up behind their tokens, where a causal model does not look: not what is in the padding, but the width of the batch leads to "
    "another order of addition. Score with batch-invariant kernels, or rows of equal length."
)
OURS_WIDTH = (  # on our kernels
    "Rows are filled up behind their tokens, and the model adds over the whole width, padding included (on a GPU, attention that it writes out itself does). "
    "Score rows of equal length, or one at a time."
)


def describe(finding: Finding) -> tuple[Block, ...]:
    """As of samples, with the log-likelihood, and whether the given tokens are the greedy ones."""
    padding = OURS_WIDTH if finding.case.kernels == Kernels.BATCH_INVARIANT else WIDTH
    return samples.describe(finding, given=True, padding=padding, first=scored(finding) if finding.samples else ())


def scored(finding: Finding) -> tuple[str, ...]:
    """A fact a line."""
    lines = []
    if "loglikelihood" in finding.metrics:
        which = " (median)" if finding.distinct_bits > 1 else ""
        count = "1 given token" if finding.common_prefix == 1 else f"{finding.common_prefix} given tokens"
        lines.append(f"log-likelihood of the {count}: {finding.metrics['loglikelihood']:.9g} nats{which}")
    reasons = finding.evidence.get("finish_reasons") or {}
    greedy = reasons.get("greedy", 0)
    if greedy and len(reasons) > 1:
        lines.append(f"in {greedy} of {finding.samples} samples each given token is the greedy one, in the others not")
    elif reasons:
        lines.append("each is the greedy token" if greedy else "not each of them is the greedy token")
    return tuple(lines)
