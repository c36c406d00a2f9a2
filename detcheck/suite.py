"""Several questions asked together, and what is known of them so far: what formats draw for `detcheck check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detcheck.blocks import Report, Section
from detcheck.spec import Spec
from detcheck.text import visible
from detcheck.verdict import INTERRUPTED, SEVERITY, Verdict

NOT_ASKED = "it was not asked"
LET_PASS = " (fail-on lets it pass)"
STOPPED = "interrupted: judged on what was asked until then"


@dataclass(frozen=True)
class Member:
    """One of the questions."""

    name: str
    spec: Spec
    report: Report | None = None
    """None: it was not asked, or not yet"""
    folder: str = ""
    """where its own reports lie, inside the suite's folder; "": it left none"""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """Its name, and what it asks about where that is a model, an op or a server: "completions · amplifier"."""
        named = any(getattr(self.spec.options, n, "") for n in ("op", "base_url"))
        known = (named or self.spec.embedded or self.spec.model) and self.spec.subject != self.name
        return f"{self.name} · {visible(self.spec.subject)}" if known else self.name

    @property
    def verdict(self) -> Verdict:
        """What was not asked is a doubt, never a pass."""
        return self.report.run.verdict if self.report else Verdict.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        return self.report.run.exit_code if self.report else Verdict.INCONCLUSIVE.exit_code

    @property
    def worst(self) -> Section | None:
        """The first section that has the exit code, the worst first; None where nothing was asked."""
        if self.report is None:
            return None
        run = self.report.run
        return min(self.report.gating, key=lambda s: s.finding.exit_code(run.spec.fail_on) != run.exit_code)

    @property
    def note(self) -> str:
        """What it came to, in a line."""
        if self.worst is None:
            return NOT_ASKED
        if len(self.report.gating) == 1:
            return self.worst.note + LET_PASS * self.passes_all_the_same
        tally = f"{len(self.report.gating)} {self.report.judged}: {self.report.tally}"
        return (
            f"{tally}; {self.worst.subject}: {self.worst.note}"
            if self.exit_code
            else tally + LET_PASS * self.passes_all_the_same
        )

    @property
    def passes_all_the_same(self) -> bool:
        """Whether something differs, and only `fail-on` makes it a pass."""
        return self.exit_code == 0 and self.verdict.exit_code == 1


@dataclass(frozen=True)
class Suite:
    """All of them. It is drawn again after each, and ends as it says wherever it is stopped."""

    config: Path
    """the file that asks"""
    command: str
    """as it was typed"""
    started: str
    """UTC, ISO 8601"""
    path: Path
    """its folder"""
    members: tuple[Member, ...]
    """in the order in which they are asked"""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of all together, in sentences."""
        return (*self.warnings, *[STOPPED] * self.interrupted)

    @property
    def verdict(self) -> Verdict:
        return min((m.verdict for m in self.members), key=SEVERITY.index)

    @property
    def exit_code(self) -> int:
        """130 if interrupted, else by precedence as over the findings of a run: 1 wins over 4, 4 over 3, 3 over 0."""
        if self.interrupted:
            return INTERRUPTED
        return min((m.exit_code for m in self.members), key=(1, 4, 3, 0).index)

    @property
    def tally(self) -> str:
        """How many of each verdict, and how many were not asked."""
        asked = [m.verdict for m in self.members if m.report]
        counts = [f"{asked.count(v)} {v}" for v in SEVERITY if v in asked]
        left = len(self.members) - len(asked)
        return ", ".join(counts + [f"{left} not asked"] * bool(left))
