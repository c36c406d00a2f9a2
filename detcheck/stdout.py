"""What a command prints: its report, whole, as UTF-8."""

from __future__ import annotations

import sys

from detcheck import stderr


def emit(text: str) -> None:
    """At once, whatever the terminal's encoding. A stdout that takes no more changes no verdict."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        stderr.lose(sys.stdout)
    except OSError as error:
        stderr.lose(sys.stdout)
        stderr.say(f"cannot write to stdout: {error.strerror}. The exit code is that of the verdict all the same")
