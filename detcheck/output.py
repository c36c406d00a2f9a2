"""What a command prints: to stdout, to stderr, and to GitHub's runner.

The runner reads a step's output for commands (`::error::`, `::set-output::`, `##[error]`): none but ours may stand in it, and model text does.
So do the agents of Azure Pipelines (`##vso[`) and TeamCity (`##teamcity[`).
"""

from __future__ import annotations

import os
import re
import stat
import sys
from typing import TextIO

from detcheck import stderr
from detcheck.text import visible

OTHERS = ("TF_BUILD", "TEAMCITY_VERSION")  # variables that say who runs this: Azure Pipelines, TeamCity
HASHES = re.compile(r"##(?=(?:vso|teamcity)?\[)", re.IGNORECASE)


def emit(text: str, format: str = "terminal") -> None:
    """To stdout at once, as UTF-8 whatever the terminal's encoding; to a file as it is, and to GitHub's runner so that it finds no command.

    A stdout that takes no more changes no verdict.
    """
    if listens() and not goes_to_a_file(sys.stdout):
        text = no_command(text, json=format in ("json", "sarif"))
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        stderr.lose(sys.stdout)
    except OSError as error:
        stderr.lose(sys.stdout)
        stderr.say(f"cannot write to stdout: {error.strerror}. The exit code is that of the verdict all the same")


def goes_to_a_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def annotate_error(why: str) -> None:
    """Of what could not be asked, or could not run: no report says it."""
    command(f"::error title=detcheck::{escaped(visible(why))}")


def command(text: str) -> None:
    """To the runner; nowhere outside of GitHub Actions."""
    if reads():
        print(text, file=sys.stderr.stream if isinstance(sys.stderr, NoCommands) else sys.stderr, flush=True)


def reads() -> bool:
    """Whether GitHub's runner reads what is said."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def listens() -> bool:
    """Whether somebody looks for commands in it: that one, or the agent of another service."""
    return reads() or any(map(os.environ.get, OTHERS))


def no_command(text: str, json: bool = False) -> str:
    """The text with a backslash in whatever would be taken for a command: `::` at a line's begin, `##[` and `##vso[` anywhere. `json`: it stays
    the same JSON."""
    if json:  # there a line begins with no text, and what stands in a string may be written as its number
        return HASHES.sub(r"#\\u0023", text)
    return re.sub(r"^([^\S\n]*:)(?=:)", r"\1\\", HASHES.sub(r"##\\", text), flags=re.MULTILINE)


class NoCommands:
    """A stream that the runner finds no command in."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        """Whole lines, since one may be written in pieces."""
        lines, end, self._line = (self._line + text).rpartition("\n")
        self.stream.write(no_command(lines) + end)
        return len(text)

    def flush(self) -> None:
        self.stream.write(no_command(self._line))
        self._line = ""
        self.stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def escaped(text: str, also: str = "") -> str:
    """Percent signs and line ends would be read by the runner; in a property's value colons and commas too."""
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + also else c for c in text)
