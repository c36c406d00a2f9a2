"""What is wanted of a schedule of completions, whoever forms the batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detcheck.spec import Spec


@dataclass(frozen=True)
class Wanted:
    """Names are those of the options."""

    samples: int
    """of each prompt, in each arm"""
    max_tokens: int
    trials: int
    conditions: tuple[str, ...] | None = None
    """names or kinds; None: those that the samples pay for"""
    sizes: tuple[int, ...] | None = None
    """--batch-sizes: rows, or requests"""
    seed: int = 0
    others: bool = False
    """whether there are other adapters for neighbours"""
    seeded: bool = False
    """whether each prompt is drawn with several seeds"""
    lone: bool = False
    """whether the probe has the conditions of `lone.py`"""
    fail_fast: bool = False

    @classmethod
    def of(cls, spec: Spec) -> Wanted:
        own = spec.options
        others = bool(getattr(own, "other_adapter", ()))
        asked = own.samples, own.max_tokens, spec.trials, own.conditions, spec.batch_sizes, spec.seed
        seeded = bool(getattr(own, "seeds", 0))
        return cls(*asked, others, seeded, lone=spec.probe == "completions", fail_fast=spec.fail_fast)

    @property
    def by_name(self) -> bool:
        """Whether conditions were asked for by name or size: these cost what they cost."""
        return self.conditions is not None or self.sizes is not None
