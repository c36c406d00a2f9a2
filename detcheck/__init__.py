"""Does an LLM inference stack give the same bits for the same request, and if not: where, why, and how often?

The public API, imported when first touched: importing detcheck costs nothing.
"""

from importlib import import_module

_HOMES = {
    "Spec": "spec",
    "Run": "finding",
    "Verdict": "verdict",
    "run": "runner",
    "resume": "runner",
    "load": "runner",
    "assert_batch_invariant": "probes.kernels.assertion",
    "batch_invariant": "switch",
    "Signature": "op",
}

__all__ = ["Run", "Signature", "Spec", "Verdict", "assert_batch_invariant", "batch_invariant", "load", "resume", "run"]


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


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        return getattr(import_module(f"detcheck.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'detcheck' has no attribute {name!r}")
