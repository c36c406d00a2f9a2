"""What the functions of the Python API return."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck import finding, report
from detcheck.api import frames, plots, shown
from detcheck.spec import Spec
from detcheck.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.console import RenderableType


class Run:
    """A run, judged: its verdict, and what was observed, as tables.

    A table is read when it is first asked for, and kept: take a `copy()` of one that you change.
    """

    def __init__(self, record: finding.Run) -> None:
        self.record = record
        """what the tables are made from: a frozen dataclass, with a finding for each case"""

    @property
    def verdict(self) -> Verdict:
        """Of all findings that gate, the most telling. Equal to its text: `run.verdict == "identical"`."""
        return self.record.verdict

    @property
    def exit_code(self) -> int:
        """What the command would exit with."""
        return self.record.exit_code

    @property
    def spec(self) -> Spec:
        """What was asked."""
        return self.record.spec

    @property
    def command(self) -> str:
        """The command line that asks the same."""
        return self.spec.command()

    @property
    def path(self) -> Path | None:
        """The run's folder. None: nothing was stored, as by `judge` and `compare`."""
        return self.record.path

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.record.warnings

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return self.record.interrupted

    @cached_property
    def findings(self) -> pd.DataFrame:
        """A row for each finding, in the order of report.json."""
        return frames.findings(self.record)

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """A row for each finding and condition: batches asked for and formed, samples, and how many distinct ones came."""
        return frames.conditions(self.record)

    @cached_property
    def observations(self) -> pd.DataFrame:
        """A row for each sample: its case and condition, where in the batch it was, and the id of its outcome."""
        return frames.observations(self.record)

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """A row for each distinct outcome, the commonest first: tokens, text, log-probabilities, and how often it came."""
        return frames.outcomes(self.record, self.observations)

    def report(self, format: str = "terminal") -> str:
        """The report in that format. Raises UsageError with the names there are where there is none of that name."""
        return report.render(self.record, format)

    def plot(self, kind: str | None = None, ax: Axes | None = None) -> Axes:
        """A picture, on new axes unless `ax` is given: of the run's first divergent tokens, or of what it has instead.

        Kinds: `histogram` and `survival` of the tokens (or elements) that leave the most common outcome; `curve` of the differences along
        a sequence (logprobs); `time` by batch size (kernels); `conditions`, the share of each that has other bits than the most common
        outcome; `verdicts`. Raises UsageError with the kinds that the run has, where it has not that one.
        """
        return plots.plot(self.record, lambda: self.observations, kind, ax)

    def __repr__(self) -> str:
        return shown.plain(self.record)

    def __rich__(self) -> RenderableType:
        return shown.console(self.record)

    def _repr_html_(self) -> str:
        return shown.page(self.record)
