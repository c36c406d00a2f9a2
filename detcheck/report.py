"""Run -> text. One file per format in `formats/`, each with `render(run) -> str`; found by its name."""

from __future__ import annotations

from detcheck import lookup
from detcheck.files import write_file
from detcheck.records import Run


def render(run: Run, name: str) -> str:
    """The run in that format. Raises UsageError for a format there is not."""
    return lookup.find("formats", name).render(run)


def write_all(run: Run) -> list[str]:
    """Puts every rendered report beside the run's data. Returns what could not be written: a full disk changes no verdict."""
    troubles = []
    for name in lookup.names("formats"):
        file = lookup.find("formats", name).FILE
        try:
            if file:
                write_file(run.path / file, render(run, name).encode("utf-8"))
        except OSError as error:
            troubles.append(f"cannot write {run.path / file}: {error.strerror or error}")
    return troubles
