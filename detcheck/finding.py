"""What judging makes of observations: a finding a case, and the run that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detcheck.records import Case, Subject
from detcheck.verdict import INTERRUPTED, SEVERITY, FailOn, Role, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from detcheck.spec import Spec


@dataclass(frozen=True)
class Divergence:
    """Where an outcome parts from the mode, and how far."""

    index: int | None
    """first unequal token; None: tokens are equal"""
    index_bits: int
    """first unequal token or log-probability bits; where only the ends differ, the length"""
    max_ulp: float | None
    """largest distance of two log-probabilities over the tokens both share, or of two elements, in representable numbers; None also where
    log-probabilities were written down as decimal numbers"""
    max_abs: float | None
    """the same in nats, or in the elements' own unit"""


@dataclass(frozen=True)
class Branch:
    """One way on from a fork. An end of the completion is a branch with token None."""

    count: int
    token: int | str | None
    text: str
    """how that branch's commonest completion goes on"""
    margin: float | None
    """how far the runner-up was behind there, in nats"""


@dataclass(frozen=True)
class Fork:
    """A node of the prefix tree where completions part."""

    id: int
    parent: int | None
    parent_branch: int | None
    """index of the branch of the parent that leads here"""
    index: int
    """token at which they part, from 0"""
    branches: tuple[Branch, ...]
    place: tuple[int, int] | None = None
    """of a conversation: the turn, from 1, and the token of its answer"""

    @property
    def at(self) -> str:
        """Where it is, as reports say it."""
        return str(self.index) if self.place is None else f"turn {self.place[0]}, token {self.place[1]}"


@dataclass(frozen=True)
class Variant:
    """A distinct outcome that has a name, for pages that show which is which."""

    name: str
    """"A" for the most common tokens; "A1", "A2" where these came with several bits"""
    group: int
    """0 for A: those with equal tokens"""
    outcome: str
    """`Outcome.id`"""
    samples: int
    length: int
    """tokens"""
    leaves: int | None
    """first index at which its tokens leave the most common ones; None: they do not"""
    leaves_bits: int | None
    """the same of bits, against the first outcome; None: it is that one"""
    text: str
    """all of it"""


@dataclass(frozen=True)
class Finding:
    """A case, judged. The field names are those of report.json."""

    case: Case
    verdict: Verdict
    note: str
    samples: int = 0
    """observed"""
    missing: int = 0
    """asked for and not observed"""
    distinct: int = 0
    """token sequences"""
    distinct_bits: int = 0
    """tokens with log-probability bits and finish reason"""
    mode_count: int = 0
    """samples with the commonest token sequence"""
    common_prefix: int = 0
    """leading tokens that all samples share"""
    common_prefix_bits: int = 0
    histogram: tuple[tuple[int, int], ...] = ()
    """(index, samples that leave the mode there)"""
    histogram_bits: tuple[tuple[int, int], ...] = ()
    forks: tuple[Fork, ...] = ()
    interval: tuple[float, float] = (0.0, 1.0)
    """95% interval on the rate of batches in which a sample leaves the mode"""
    interval_bits: tuple[float, float] = (0.0, 1.0)
    evidence: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    mode_text: str = ""
    variants: tuple[Variant, ...] = ()
    """the most common outcomes, with their texts; report.json has them without, in `evidence.outcomes`"""
    role: Role = Role.GATES
    detail: object = None
    """what the probe's judge found, for the probe's own description; no part of report.json"""
    accepted: bool = False
    """whether a difference is within limits that the user gave: its verdict stays, and it exits with 0. report.json has it in `evidence.limits`"""

    @property
    def latent(self) -> bool:
        """Equal tokens with unequal log-probability bits (or ends): a divergence that has not surfaced yet."""
        return self.distinct == 1 and self.distinct_bits > 1

    def exit_code(self, fail_on: FailOn) -> int:
        """The verdict's code; where `fail_on` or a limit of the user's forgives a divergence 0, or 3 if samples are missing that might tell more.

        A control is 0 whatever it shows. No option forgives a wrong result.
        """
        if self.role is not Role.GATES:
            return 0
        if self.verdict is Verdict.INACCURATE:
            return 1
        code = self.verdict.exit_code
        if code == 1 and (fail_on is FailOn.NEVER or (fail_on is FailOn.TOKENS and self.latent) or self.accepted):
            return 3 if self.missing else 0
        return code


@dataclass(frozen=True)
class Run:
    """A whole run, judged. What `report` renders."""

    spec: Spec
    command: str
    """as it was typed"""
    started: str
    """UTC, ISO 8601"""
    findings: tuple[Finding, ...]
    subject: Subject | None = None
    """None: it failed before there was one"""
    path: Path | None = None
    """the run's folder"""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        return min((f.verdict for f in self.findings if f.role is Role.GATES), key=SEVERITY.index)

    @property
    def exit_code(self) -> int:
        """130 if interrupted, else by precedence: 1 wins over 4, 4 over 3, 3 over 0."""
        if self.interrupted:
            return INTERRUPTED
        return min((f.exit_code(self.spec.fail_on) for f in self.findings), key=(1, 4, 3, 0).index)
