"""Does an LLM inference stack give the same bits for the same request, and if not: where, why, and how often?

The public API, imported when first touched: importing detcheck costs nothing.
"""

from functools import cache
from importlib import import_module

_HOMES = {
    "Spec": "spec",
    "Run": "api.run",
    "Verdict": "verdict",
    "run": "api.ask",
    "resume": "api.ask",
    "load": "api.ask",
    "UsageError": "errors",
    "FailedError": "errors",
    "assert_batch_invariant": "probes.kernels.assertion",
    "assert_deterministic": "harness.repeats",
    "batch_invariant": "switch",
    "Signature": "op",
}
_PACKAGES = ("kernels", "judge")  # called themselves: see called.py


def _version() -> str:
    """Of the installed distribution, or where it runs from a checkout alone, what that says."""
    import tomllib
    from importlib.metadata import PackageNotFoundError, version  # imported here: a sixth of the time that --help takes
    from pathlib import Path

    try:
        return version("detcheck")
    except PackageNotFoundError:
        stated = Path(__file__).parents[1] / "pyproject.toml"
        return tomllib.loads(stated.read_text("utf-8"))["project"]["version"] if stated.is_file() else "unknown"


@cache
def _commands() -> list[str]:
    """Those that are functions too."""
    return [*import_module("detcheck.lookup").names("probes"), "compare", "judge"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        return getattr(import_module(f"detcheck.{_HOMES[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"detcheck.{name}")
    if name == "__all__":
        return [*sorted(_HOMES), *_commands()]
    if not name.startswith("_") and name in _commands():
        return import_module("detcheck.api.ask").function(name)
    raise AttributeError(f"module 'detcheck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*sorted(_HOMES), *_commands(), "__version__"]
