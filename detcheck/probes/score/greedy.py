"""Whether given tokens are those that would have been made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detcheck.engine import Ran, Sample
from detcheck.outcomes import outcome
from detcheck.records import Outcome

GREEDY, NOT_GREEDY = "greedy", "not greedy"


def greedy(found: Outcome) -> bool:
    """Whether each token leads all others. Of equals the lower id leads; one that has no other beside it leads."""
    equal = (found.margins == 0) & (found.tokens < found.runners_up)
    lone = np.isnan(found.margins) & ~np.isnan(found.logprobs)
    return bool(((found.margins > 0) | equal | lone).all())


def scored(ran: Ran) -> Ran:
    """With `finish_reason` saying whether the tokens are the greedy ones, where that is known, and with the log-likelihood of the first sample."""
    samples = tuple(marked(sample) for sample in ran.samples)
    first = samples[0].outcome
    if first is None or first.logprobs is None:
        return replace(ran, samples=samples)
    total = ("loglikelihood", float(first.logprobs.sum(dtype=np.float64)))
    return replace(ran, samples=samples, metrics=(*ran.metrics, total))


def marked(sample: Sample) -> Sample:
    found = sample.outcome
    if found is None:
        return sample
    reason = None if found.margins is None else GREEDY if greedy(found) else NOT_GREEDY
    numbers = {"logprobs": found.logprobs, "margins": found.margins, "runners_up": found.runners_up}
    made = outcome(found.tokens, finish_reason=reason, text=found.text, words=found.words, **numbers)
    return replace(sample, outcome=made)
