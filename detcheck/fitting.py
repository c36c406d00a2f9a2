"""Text that fits a terminal's width: no word is broken, and of a long name in a table the middle is left out, at its dots.

Widths are of cells, as a terminal counts them: an East Asian character takes two.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

GAP = 2  # cells between two columns
LEFT_OUT = "…"
SHELL_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|\\.|[^\s'\"\\])+")
NUMBER = re.compile(r"[-+~<>≤≥±]?(\d[\d.,]*(e[-+]?\d+)?|nan|inf)(?=$|[\s%(])")
GUIDE = re.compile(r"[ │├└─]*")


def breaks(text: str, width: int) -> list[int]:
    """Where its lines begin after the first: behind spaces alone, so that a word wider than a line has one to itself."""
    found, begun, used = [], 0, 0
    for word in re.finditer(r"\s*\S+", text):
        cells = cell_len(word[0])
        if used + cells > width and word.start() > begun and text[begun : word.start()].strip():
            begun = word.end() - len(word[0].lstrip())
            found.append(begun)
            used = cell_len(text[begun : word.end()])
        else:
            used += cells
    return found


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines, broken at its spaces alone."""
    at = [0, *breaks(text, width), len(text)]
    return [text[a:b].rstrip() for a, b in itertools.pairwise(at)]


def hung(line: str, width: int) -> list[str]:
    """A line of an outline: what goes on below stands behind its guides, which are drawn on."""
    guide = GUIDE.match(line)[0]
    below = guide.replace("├", "│").translate({ord(c): " " for c in "└─"}) + "  "
    first, *rest = wrapped(line[len(guide) :], width - len(below))
    return [guide + first, *(below + one for one in rest)]


def continued(command: str, width: int) -> list[str]:
    """A command line in lines that a shell reads as one: broken between its words, an option kept with its value."""
    units: list[str] = []
    for word in SHELL_WORD.findall(command):
        if units and units[-1].startswith("-") and " " not in units[-1] and not word.startswith("-"):
            units[-1] += f" {word}"
        else:
            units.append(word)
    lines: list[str] = []
    for unit in units:
        if lines and cell_len(lines[-1]) + 1 + cell_len(unit) + 2 <= width:  # two for the backslash behind it
            lines[-1] += f" {unit}"
        else:
            lines.append(f"    {unit}" if lines else unit)
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def shorter(name: str) -> list[str]:
    """Ways to leave out what is in the middle of a name, the one that says most first; they all end as the name does.

    Of "model.layers.11.mlp": "model…11.mlp", "…11.mlp", "model…mlp", "…mlp". Names of ops are cut at their underscores.
    """
    if not re.match(r"[A-Za-z_]", name) or " " in name:
        return []  # a number, or a sentence
    parts = re.findall(r".+?(?:\.|$)", name)
    if len(parts) < 3:
        parts = re.findall(r".+?(?:::|(?<=[a-z0-9])(?=_)|$)", name)
    tails = ["".join(parts[n:]).lstrip("_") for n in range(2, len(parts))]
    found = [start + LEFT_OUT + tail for tail in tails for start in (parts[0].rstrip("."), "")]
    return found or [LEFT_OUT + part for part in re.findall(r".+?(?:\.|::|$)", name)[1:2]]


def shortened(names: Sequence[str], width: int) -> dict[str, str]:
    """Each name, or what is left of it in `width` cells. Two that would look alike are left as long as it takes to tell them apart."""
    ways = {}
    for name in dict.fromkeys(names):
        short = shorter(name) if cell_len(name) > width else []
        fit = [one for one in short if cell_len(one) <= width]
        ways[name] = iter([*fit, *reversed([one for one in short if one not in fit]), name])
    found = {name: next(way) for name, way in ways.items()}
    while alike := {short for short, n in Counter(found.values()).items() if n > 1}:
        for name in [name for name, short in found.items() if short in alike and short != name]:
            found[name] = next(ways[name])
    return found


def table(lines: Sequence[Sequence[str]], width: int) -> tuple[list[str], int]:
    """(lines, how many of them are headings) of cells in columns, the headings first: numbers flush right, words left.

    Headings go over several lines first, then cells that have spaces; then names of parts are shortened, the longest first. A
    table with more columns than fit all the same is turned, so that its headings stand in the first column.
    """
    columns, widths = laid_out(lines, width)
    if taken(widths) > width:
        turned = laid_out(list(zip(*lines, strict=True)), width)
        columns, widths = min((columns, widths), turned, key=lambda one: taken(one[1]))
    left = [not any(NUMBER.match(cell) for cell in column[1:]) for column in columns]
    headings, *rows = zip(*columns, strict=True)
    drawn = list(beside(headings, widths, left, bottom=True))
    return [*drawn, *(line for cells in rows for line in beside(cells, widths, left))], len(drawn)


def taken(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def laid_out(lines: Sequence[Sequence[str]], width: int) -> tuple[list[list[str]], list[int]]:
    """Columns whose names may be shortened, and their widths, in cells."""
    columns = [list(column) for column in zip(*lines, strict=True)]
    room = width - GAP * (len(columns) - 1)
    wide = [max(map(cell_len, column[1:]), default=0) for column in columns]
    widths = [max(longest_word(column[0]), w) for column, w in zip(columns, wide, strict=True)]
    for n in sorted(range(len(columns)), key=lambda n: -wide[n]):
        if sum(widths) > room:
            least = max(map(longest_word, columns[n]))
            widths[n] = max(least, widths[n] - (sum(widths) - room))
    columns, widths = named_shorter(columns, widths, room)
    return columns, filled([column[0] for column in columns], widths, room)


def longest_word(text: str) -> int:
    return max(map(cell_len, text.split(" ")))


def named_shorter(columns: list[list[str]], widths: list[int], room: int) -> tuple[list[list[str]], list[int]]:
    """The columns with names shortened until all have room, the widest first."""
    full, columns, widths = columns, list(columns), list(widths)
    aim = {n: widths[n] for n, column in enumerate(full) if any(map(shorter, column[1:]))}

    def cut(n: int, cells: int) -> tuple[list[str], int]:
        heading, *names = full[n]
        short = shortened(names, cells)
        column = [heading, *(short[name] for name in names)]
        return column, max(map(longest_word, column))

    can = set(aim)
    while sum(widths) > room and can:
        n = max(can, key=aim.__getitem__)
        aim[n] -= 1
        columns[n], widths[n] = cut(n, aim[n])
        if aim[n] < min(widths[n], longest_word(full[n][0])):
            can.discard(n)
    for n in aim:  # names are cut at a few places alone, so that another column may have room again
        for cells in range(max(map(longest_word, full[n])), widths[n], -1):
            column, wide = cut(n, cells)
            if sum(widths) - widths[n] + wide <= room:
                columns[n], widths[n] = column, wide
                break
    return columns, widths


def filled(headings: Sequence[str], widths: Sequence[int], room: int) -> list[int]:
    """What room is left goes to headings, from the left, so that they take fewer lines."""
    widths = list(widths)
    for n, heading in enumerate(headings):
        spare = room - sum(widths)
        if spare > 0 and cell_len(heading) > widths[n]:
            wider = min(cell_len(heading), widths[n] + spare)
            widths[n] = max(widths[n], *map(cell_len, wrapped(heading, wider)))
    return widths


def beside(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool], bottom: bool = False) -> Iterator[str]:
    """One row of a table, in as many lines as its highest cell has; `bottom`: the others stand at the bottom of theirs."""
    high = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    if bottom:
        high = [[""] * (max(map(len, high)) - len(lines)) + lines for lines in high]
    for line in itertools.zip_longest(*high, fillvalue=""):
        padded = (
            text + " " * (w - cell_len(text)) if flush else " " * (w - cell_len(text)) + text
            for text, w, flush in zip(line, widths, left, strict=True)
        )
        yield (" " * GAP).join(padded).rstrip()
