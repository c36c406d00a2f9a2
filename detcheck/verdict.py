"""What a case can be found to be, and the exit code that CI acts on."""

from __future__ import annotations

from enum import StrEnum

INTERRUPTED = 130  # exit code of a run that Ctrl-C ended


class Verdict(StrEnum):
    """What a case was found to be. `exit_code` is what CI acts on."""

    IDENTICAL = "identical"
    RUN_VARIANT = "run-variant"
    BATCH_VARIANT = "batch-variant"
    DIVERGENT = "divergent"
    INACCURATE = "inaccurate"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"
    # of a kernel that was read, not run
    CERTIFIED = "certified"
    REFUTED = "refuted"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        return {"identical": 0, "certified": 0, "inconclusive": 3, "undecided": 3, "failed": 4}.get(self.value, 1)


MEANING = {
    Verdict.IDENTICAL: "every condition asked for was exercised, and all bits are equal",
    Verdict.RUN_VARIANT: "equal conditions, different bits: true nondeterminism",
    Verdict.BATCH_VARIANT: "each condition repeats itself, but conditions differ: not batch-invariant",
    Verdict.DIVERGENT: "different bits, and it is undetermined whether the run or the batch caused it",
    Verdict.INACCURATE: "the result is wrong against float64 beyond the accuracy rule",
    Verdict.INCONCLUSIVE: "not enough evidence for a verdict",
    Verdict.FAILED: "it could not run, and nothing was observed",
    Verdict.CERTIFIED: "nothing of the batch reaches the order in which it adds",
    Verdict.REFUTED: "the batch reaches the order in which it adds",
    Verdict.UNDECIDED: "what was read of the kernel does not show it either way",
}

# Over several findings the most telling wins: a divergence beats a failure, a failure beats a doubt, a doubt beats a pass.
SEVERITY = (
    Verdict.RUN_VARIANT,
    Verdict.BATCH_VARIANT,
    Verdict.DIVERGENT,
    Verdict.INACCURATE,
    Verdict.REFUTED,
    Verdict.FAILED,
    Verdict.INCONCLUSIVE,
    Verdict.UNDECIDED,
    Verdict.IDENTICAL,
    Verdict.CERTIFIED,
)


class FailOn(StrEnum):
    """Which divergence exits with 1: any different bit, different tokens only, or none."""

    ANY = "any"
    TOKENS = "tokens"
    NEVER = "never"


class Role(StrEnum):
    """What a case is there for. Only cases that gate decide verdict and exit code; the others are reported apart."""

    GATES = "gates"
    CONTROL = "control"
    """stock beside ours: what ours is compared with"""
    REACTS = "reacts"
    """stock under the same schedule as ours: where it shows no difference, the probe was not sensitive, and ours is no pass"""
    PLANTED = "planted"
    """variant on purpose: where it shows no difference, the probe is blind, and nothing equal is a pass"""


ROLES = {Role.GATES: "", Role.CONTROL: " (control)", Role.REACTS: " (control)", Role.PLANTED: " (planted control)"}
