"""What a report is made of. Probes describe a finding in these blocks; a format only knows how to draw each of them.

Text in blocks is data made visible: no control character is left in it, and every format escapes it once more in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detcheck.finding import Finding, Fork, Run, Variant
from detcheck.records import SourceLine
from detcheck.summation.describe import Entry, drawn
from detcheck.text import visible

BINS = 12  # lines of a histogram
SHOWN_FORKS = 12  # of the tree in human reports; report.json has all
SHOWN_FINDINGS = 8
MARGIN = "margin: how far the runner-up was behind, in nats"


@dataclass(frozen=True)
class Totals:
    """The line that users paste into issues."""

    line: str


@dataclass(frozen=True)
class Facts:
    """What differs and how often, a fact a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class DrawnTree:
    """One order of addition."""

    title: str
    """its number, the tree's hash and at which batch sizes it was seen; "" where it could not be read"""
    line: str
    where: str
    outline: tuple[Entry, ...]


@dataclass(frozen=True)
class Trees:
    """Orders of addition: as outlines where there is only text, else as a picture."""

    trees: tuple[DrawnTree, ...]
    on_pages: bool = False
    """only for formats that have room"""


@dataclass(frozen=True)
class Histogram:
    """Samples by the index at which they leave the mode."""

    title: str
    counts: tuple[tuple[int, int], ...]
    """(index, samples)"""

    def bins(self, most: int = BINS) -> list[tuple[str, int]]:
        """(label, samples): an index each, or equal ranges of indices where there are too many."""
        if len(self.counts) <= most:
            return [(str(index), count) for index, count in self.counts]
        low, high = self.counts[0][0], self.counts[-1][0]
        width = -(-(high - low + 1) // most)
        found: dict[int, int] = {}
        for index, count in self.counts:
            found[(index - low) // width] = found.get((index - low) // width, 0) + count
        return [
            (f"{low + b * width}-{min(high, low + (b + 1) * width - 1)}", found.get(b, 0))
            for b in range(max(found) + 1)
        ]


@dataclass(frozen=True)
class Curve:
    """How far two sides are apart along a sequence."""

    title: str
    across: str
    """what the places are"""
    unit: str
    points: tuple[tuple[int, float, float], ...]
    """(place, mean, largest)"""
    on_pages: bool = False
    """only for formats that have room"""

    def bins(self, most: int = BINS) -> list[tuple[str, float, float]]:
        """(label, mean, largest): a point each, or as many together as it takes."""
        width = -(-len(self.points) // most)
        found = []
        for n in range(0, len(self.points), width):
            part = self.points[n : n + width]
            last = part[-1][0] if n + width >= len(self.points) else self.points[n + width][0] - 1
            label = str(part[0][0]) if last == part[0][0] else f"{part[0][0]}-{last}"
            found.append((label, sum(mean for _, mean, _ in part) / len(part), max(top for _, _, top in part)))
        return found


@dataclass(frozen=True)
class Survival:
    """How many samples are still the same as the mode, along a sequence."""

    title: str
    across: str
    """what the places are"""
    of: int
    """samples"""
    length: int
    """places"""
    lines: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    """(what is compared, ((place at which some leave, how many are left from there on), ...)), in order"""


@dataclass(frozen=True)
class Column:
    """An outcome, in a matrix."""

    name: str
    group: int
    """0 for the most common; equal ones have equal tokens"""
    about: str
    """what tells it from the first"""
    again: bool = False
    """whether an outcome before it has the same tokens"""


@dataclass(frozen=True)
class Matrix:
    """Which condition gave which outcome, and how often."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[int, ...]], ...]
    """(condition, samples of each column; behind them of all outcomes that have none)"""
    others: int
    """outcomes without a column"""
    unit: str = "samples"


@dataclass(frozen=True)
class Texts:
    """What the most common outcomes say, one for each that has other tokens."""

    variants: tuple[Variant, ...]
    unit: str
    """what an index counts"""


@dataclass(frozen=True)
class Forks:
    """The prefix tree where completions part."""

    forks: tuple[Fork, ...]


@dataclass(frozen=True)
class Table:
    """Lines of cells, the headings first. `names_first`: the first column holds names, not numbers."""

    title: str
    lines: tuple[tuple[str, ...], ...]
    names_first: bool = True
    notes: tuple[str, ...] = ()
    """below it, a line each"""
    on_pages: bool = False
    """only for formats that have room"""


@dataclass(frozen=True)
class Mode:
    """The most common completion's text, for formats that can fold it away."""

    text: str


@dataclass(frozen=True)
class Text:
    """What ran, the likely cause, what to do: a sentence a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class LineNote:
    """What speaks against a line of source."""

    place: SourceLine
    text: str
    certain: bool
    """whether it is enough for the verdict; otherwise it is only not clear"""


@dataclass(frozen=True)
class LineNotes:
    """For formats that show them on the source itself; the others have them in the note."""

    notes: tuple[LineNote, ...]


Block = Totals | Facts | Trees | Histogram | Curve | Survival | Matrix | Texts | Forks | Table | Mode | Text | LineNotes
"""`Survival`, `Matrix` and `Texts` are for pages: a terminal and Markdown have not the room, and pass them over."""


@dataclass(frozen=True)
class Section:
    """A finding, described."""

    finding: Finding
    subject: str
    """what it is about, in a line"""
    note: str
    blocks: tuple[Block, ...]
    source: SourceLine | None = None
    """where what was asked about begins; None: it has no file of its own"""
    meaning: str = ""
    """what it means, for somebody who reads it for the first time; two sentences"""

    @property
    def lines(self) -> tuple[LineNote, ...]:
        """Where the finding is shown on the source: what speaks against it, line by line, else where the op begins."""
        said = [note for block in self.blocks if isinstance(block, LineNotes) for note in block.notes]
        placed = tuple(note for note in said if note.place.file)
        if placed or self.source is None:
            return placed
        return (LineNote(self.source, self.note, self.finding.verdict.exit_code == 1),)


@dataclass(frozen=True)
class Report:
    """A run, described: what formats draw."""

    run: Run
    gating: tuple[Section, ...]
    """the worst first"""
    controls: tuple[Section, ...]
    judged: str
    """what there is a finding each of: "cases" or "prompts" """
    tally: str
    """how many of each verdict"""
    asked: tuple[tuple[str, str], ...]
    """(who was asked, what it was found to do)"""

    @property
    def sections(self) -> tuple[Section, ...]:
        return self.gating + self.controls


def branch_text(fork: Fork, n: int) -> str:
    """How that branch goes on."""
    branch = fork.branches[n]
    if branch.token is None:
        return "(ends here)"
    return visible(branch.text or f"token {branch.token}")


def sentences(section: Section) -> Sequence[str]:
    """All that is said in lines, for formats that have nothing else."""
    lines: list[str] = []
    for block in section.blocks:
        if isinstance(block, Totals):
            lines.append(block.line)
        elif isinstance(block, Facts | Text):
            lines += block.lines
        elif isinstance(block, Trees) and not block.on_pages:
            for tree in block.trees:
                lines += [tree.line, *outlined(tree)]
    return lines


def outlined(tree: DrawnTree) -> list[str]:
    """Where an order was seen, and its tree: lines to stand below the tree's own."""
    return [f"   {line}" for line in (tree.where, *drawn(tree.outline))]
