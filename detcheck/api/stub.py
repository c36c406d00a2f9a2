"""The package's type stub, made from the declarations of the options: what editors complete and type checkers check.

python -m detcheck.api.stub    writes detcheck/__init__.pyi
"""

from __future__ import annotations

import inspect
from pathlib import Path

import detcheck
from detcheck.api import ask, keywords

FILE = Path(detcheck.__file__).with_suffix(".pyi")
HEAD = '''# ruff: noqa
# fmt: off
"""Written from the declarations of the options by `python -m detcheck.api.stub`."""

from typing import Any, Literal

from detcheck.api.ask import OnProgress
from detcheck.api.ask import load as load
from detcheck.api.ask import resume as resume
from detcheck.api.ask import run as run
from detcheck.api.keywords import Named, Numbers, Pairs, Words
from detcheck.api.run import Run as Run
from detcheck.errors import FailedError as FailedError
from detcheck.errors import UsageError as UsageError
from detcheck.harness.repeats import assert_deterministic as assert_deterministic
from detcheck.op import Signature as Signature
from detcheck.probes.kernels.assertion import assert_batch_invariant as assert_batch_invariant
from detcheck.spec import Spec as Spec
from detcheck.switch import batch_invariant as batch_invariant
from detcheck.verdict import Verdict as Verdict
{enums}
__version__: str
'''


def stub() -> str:
    found = keywords.enums(option for name in ask.names() for option in ask.function(name).options)
    imports = sorted(f"from {enum.__module__} import {enum.__name__}\n" for enum in found)
    return HEAD.replace("{enums}", "".join(imports)) + "".join(f"\n{function(name)}" for name in ask.names())


def function(name: str) -> str:
    """The function of a command, with a line for each keyword, which is how a difference is read best."""
    asked = ask.function(name)
    parts, named = [], False
    for one in asked.__signature__.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not named:
            parts.append("*")
            named = True
        default = "" if one.default is one.empty else f" = {one.default!r}"
        parts.append(f"{one.name}: {one.annotation}{default}")
    body = inspect.cleandoc(asked.__doc__ or "").replace("\n", "\n    ").replace("    \n", "\n")
    lines = "".join(f"    {part},\n" for part in parts)
    return f'def {name}(\n{lines}) -> Run:\n    """{body}\n    """\n'


if __name__ == "__main__":
    FILE.write_text(stub(), "utf-8")
