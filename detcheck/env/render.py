"""The listing as text for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from detcheck.env.listing import Listing
from detcheck.env.usable import ListingFormat, Usable
from detcheck.formats.md import inert
from detcheck.text import visible

SCHEMA_VERSION = "1.0"  # of the JSON; additive within a major version


def render(listing: Listing, format: ListingFormat) -> str:
    return FORMATS[format](listing)


def in_json(listing: Listing) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(listing)}, indent=1, sort_keys=True) + "\n"


def tables(listing: Listing) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """(title, headings, rows)"""
    return [
        ("Machine", ("", ""), list(listing.machine.items())),
        ("Versions", ("", ""), list(listing.packages.items())),
        ("Engines", ("", "runs here", ""), [row(one) for one in listing.parts if one.kind == "engine"]),
        ("Kernels of ours", ("", "runs here", ""), [row(one) for one in listing.parts if one.kind == "kernels"]),
        (
            "Settings", ("", "requested", "in effect"),
            [(one.name, one.requested or "-", one.effective or "-") for one in listing.settings]
            or [("no variable is set", "-", "-")],
        ),
    ]  # fmt: skip


def row(part: Usable) -> tuple[str, str, str]:
    return part.name, "yes" if part.runs else "no", f"{part.found}. {part.remedy}" if part.remedy else part.found


def in_terminal(listing: Listing) -> str:
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    lines = []
    for title, headings, rows in tables(listing):
        shown = [tuple(map(visible, cells)) for cells in rows]
        if any(headings):
            shown = [headings, *shown]
        lines += [title, *columns(shown, width), ""]
    if not listing.problems:
        return "\n".join([*lines, "Problems: none", ""])
    lines.append("Problems")
    for one in listing.problems:
        for begun, text in (
            ("  ", visible(one.what)),
            ("    found: ", visible(one.found)),
            ("    do: ", visible(one.remedy)),
        ):
            lines += textwrap.wrap(
                text, width, initial_indent=begun, subsequent_indent=" " * len(begun), break_on_hyphens=False
            )
    return "\n".join([*lines, ""])


def columns(rows: Sequence[Sequence[str]], width: int) -> Iterable[str]:
    """All but the last column as wide as they need; the last one is wrapped."""
    wide = [max(len(cells[n]) for cells in rows) for n in range(len(rows[0]) - 1)]
    for cells in rows:
        begun = "  " + "  ".join(cell.ljust(w) for cell, w in zip(cells[:-1], wide, strict=True)) + "  "
        yield from textwrap.wrap(
            cells[-1] or " ", width, initial_indent=begun, subsequent_indent=" " * len(begun), break_on_hyphens=False
        ) or [begun.rstrip()]


def in_markdown(listing: Listing) -> str:
    parts = ["# detcheck env", ""]
    for title, headings, rows in tables(listing):
        cells = [f"| {' | '.join(map(inert, one))} |" for one in rows]
        parts += [f"## {title}", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *cells, ""]
    parts += ["## Problems", ""]
    parts += [f"- {inert(one.what)}: {inert(one.found)}. {inert(one.remedy)}" for one in listing.problems] or ["None."]
    return "\n".join([*parts, ""])


FORMATS: dict[ListingFormat, Callable[[Listing], str]] = {
    ListingFormat.TERMINAL: in_terminal, ListingFormat.JSON: in_json, ListingFormat.MD: in_markdown,
}  # fmt: skip
