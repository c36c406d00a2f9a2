"""Are a trainer's log-probabilities those of its sampler, by bits? A check for a training loop of your own, and a callback for trl.

In a loop of your own, call `same_bits` at every step. With trl's GRPOTrainer and vLLM as its sampler, give it the callback:

    trainer = GRPOTrainer(..., callbacks=[StopOffPolicy()])
"""

from __future__ import annotations

import torch
from transformers import TrainerCallback


class OffPolicyError(Exception):
    """Sampler and trainer disagree, or nothing was compared."""


def same_bits(sampled: torch.Tensor, trained: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """sampled, trained [B, T]: log-probabilities of the same tokens, of one dtype; mask [B, T]: true where there is a token.

    Raises OffPolicyError with the first that differs, and where there is nothing to compare.
    """
    if sampled.shape != trained.shape or sampled.dtype != trained.dtype:
        one, other = (f"{t.dtype} {tuple(t.shape)}" for t in (sampled, trained))
        raise OffPolicyError(f"sampler and trainer must give the same shape and dtype; got {one} and {other}")
    if mask is not None and mask.shape != sampled.shape:
        raise OffPolicyError(
            f"the mask must have the shape of the log-probabilities, {tuple(sampled.shape)}; got {tuple(mask.shape)}"
        )
    one, other = (t.detach().cpu().contiguous() for t in (sampled, trained))
    shown = torch.ones_like(one, dtype=torch.bool) if mask is None else mask.bool().cpu()
    if not shown.any():
        raise OffPolicyError("no token was compared: the mask hides all of them")
    size = one.element_size()  # == would call -0.0 and 0.0 equal, and a NaN unequal to itself
    unlike = (one.view(torch.uint8) != other.view(torch.uint8)).view(*one.shape, size).any(-1) & shown
    if unlike.any():
        row, place = unlike.nonzero()[0].tolist()
        far = (one - other).abs()[unlike].max().item()
        raise OffPolicyError(
            f"{int(unlike.sum())} of {int(shown.sum())} log-probabilities differ, first that of token {place} of sample {row}: "
            f"{one[row, place].item():.9g} and {other[row, place].item():.9g}; up to {far:.3g} nats apart"
        )


class StopOffPolicy(TrainerCallback):
    """Stops training at the first step that trl logs whose largest difference between sampler and trainer is not 0.

    trl logs it where vLLM samples and its importance sampling correction is on. A log of a step that does not hold it stops training too: what was
    not compared is no pass.
    """

    LARGEST = "sampling/sampling_logp_difference/max"

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" not in (logs or {}):  # of an evaluation, or the summary at the end
            return
        largest = logs.get(self.LARGEST)
        if largest is None:
            raise OffPolicyError(f"step {state.global_step}: the log has no {self.LARGEST}, so nothing was compared")
        if largest != 0:  # true of a NaN too
            raise OffPolicyError(f"step {state.global_step}: sampler and trainer are up to {largest:.3g} nats apart")
