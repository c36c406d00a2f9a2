"""Where a run's folder is made: a new one each time, named by UTC time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from detcheck.errors import UsageError


def stamped(what: str) -> str:
    """A folder's name: UTC time, and what was asked."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{what}"


def new_folder(parent: Path, stem: str) -> Path:
    """A folder that was not there: of that name, or with a number behind it. Raises UsageError where it cannot be made."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        numbered = (parent / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
        return next(path for path in numbered if make_folder(path))
    except OSError as error:
        raise cannot_write(parent, error) from None


def cannot_write(parent: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--output-dir {parent}: cannot write there: {error.strerror}. Give a folder with room that you may write to"
    )


def make_folder(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True
