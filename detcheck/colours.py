"""Whether colours are wanted: by the variables that other programs obey too, else wherever a terminal watches.

`NO_COLOR` (no-color.org) has the last word, as in Python itself; then `FORCE_COLOR` and `CLICOLOR_FORCE` ask for colours also in a
pipe, and `TERM=dumb` and `CLICOLOR=0` for none in a terminal. A variable that is set to nothing says nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TextIO


def asked(environment: Mapping[str, str] | None = None) -> bool | None:
    """What the variables say; None: nothing, so that it depends on who watches."""
    found = os.environ if environment is None else environment
    if found.get("NO_COLOR"):
        return False
    if any(found.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return False if found.get("TERM") in ("dumb", "unknown") or found.get("CLICOLOR") == "0" else None


def wanted(stream: TextIO) -> bool:
    said = asked()
    return stream.isatty() if said is None else said


def teach_typer() -> None:
    """Makes help pages and usage errors obey. Typer itself knows FORCE_COLOR alone, and in rich NO_COLOR leaves bold and dim."""
    said = asked()
    typers_own = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"} & os.environ.keys()
    if said is None and not typers_own and "typer.rich_utils" not in sys.modules:
        return  # its rule is ours then, and importing this takes a tenth of a second
    from typer import rich_utils

    rich_utils.COLOR_SYSTEM = {True: "standard", False: None, None: "auto"}[said]
    rich_utils.FORCE_TERMINAL = said
