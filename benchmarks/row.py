"""What a row of `make bench` is: a figure, its goal, and where it is claimed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """Words of a page. A heading with its # stands for its section, all that is below it included."""

    page: str
    words: str
    says: tuple[float, ...] = ()
    """the figure that the words give, in the row's unit, or the lowest and the highest of a range; empty: they give none that the row measures"""
    within: float = 0.1
    """how far the median may be from it, as a part of it, before the page is said to disagree"""

    def agrees(self, figure: float) -> bool:
        """Whether a measured figure is what the words say; True where they say none."""
        return not self.says or min(self.says) * (1 - self.within) <= figure <= max(self.says) * (1 + self.within)


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    what: str
    against: str = ""
    """what took turns with it in the same run; empty: the figure is no ratio"""
    unit: str = "times"
    """"times" and "share" are ratios; "calls" are counted; "s", "ms", "MiB/s" are what they say"""
    goal: float | None = None
    at_least: bool = False
    """whether the goal is a least instead of a most"""
    why: str = ""
    """why the goal is missed where it is, and what was tried"""
    claims: tuple[Claim, ...] = ()
    counted: bool = False
    """the same each time: a count, no time"""

    @property
    def goal_words(self) -> str:
        return "" if self.goal is None else f"{'at least' if self.at_least else 'at most'} {self._told(self.goal)}"

    def meets(self, figures: Sequence[float]) -> bool:
        """False where a figure is NaN or infinite: their median would depend on their places."""
        if not all(map(math.isfinite, figures)):
            return False
        middle = statistics.median(figures)
        return self.goal is None or (middle >= self.goal if self.at_least else middle <= self.goal)

    def missed_by(self, figures: Sequence[float]) -> str:
        middle = statistics.median(figures)
        return f"{abs(middle - self.goal) / self.goal:.1%}" if self.goal else self._told(abs(middle - (self.goal or 0)))

    def figure(self, figures: Sequence[float]) -> str:
        return self._told(statistics.median(figures))

    def spread(self, figures: Sequence[float]) -> str:
        """The quartiles; of fewer than five rounds the lowest and the highest."""
        if self.counted or len(figures) < 2:
            return ""
        low, high = min(figures), max(figures)
        if len(figures) >= 5:
            low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
        return f"{self.number(low)} to {self.number(high)}"

    def said(self, figures: Sequence[float], partial: str = "") -> str:
        """`partial`: why the script ended before it was through; a goal is then not met, whatever the figures."""
        spread = self.spread(figures)
        words = "MISSED" if not self.meets(figures) else "PARTIAL" if partial else "met"
        goal = "" if self.goal is None else f"; goal: {self.goal_words}, {words}"
        end = f"; PARTIAL: {partial}" if partial else ""
        return self.figure(figures) + (f" ({spread})" if spread else "") + goal + end

    def _told(self, value: float) -> str:
        return self.number(value) + {"times": " times", "share": ""}.get(self.unit, f" {self.unit}")

    def number(self, value: float) -> str:
        if self.counted or self.unit in ("calls", "MiB/s"):
            return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"
        return f"{value:.{3 if self.goal and 1 < self.goal < 1.1 else 2}f}"


@dataclass(frozen=True)
class Job:
    """A script's run, which measures some rows."""

    script: str
    rows: tuple[Row, ...]
    group: str
    limit_s: int
    arguments: tuple[str, ...] = ()
    needs: str = ""
    """a module that has to be installed, or "gpu"; empty: nothing"""
    slow: bool = False
    """left out unless it is asked for"""
