"""For pytest: the fixtures `assert_batch_invariant` and `assert_deterministic`, and a section of the summary that says what they saw.

Loaded whenever pytest starts where detcheck is installed, so it imports nothing of detcheck before a fixture is used.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

PROPERTY = "detcheck"  # of a test's report: in JUnit XML, and sent by xdist's workers
SHOWN = 20  # passing checks in the summary; -v shows all
OPTION, INI = "--detcheck-batch-sizes", "detcheck_batch_sizes"
PASSED = pytest.StashKey[bool]()
ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "batch sizes at which assert_batch_invariant calls a function, like 1,8,64 (default: the thresholds of kernels, up to 257)"
    parser.getgroup("detcheck").addoption(OPTION, metavar="SIZES", help=said)
    parser.addini(INI, said)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    if given(config):
        batch_sizes(config)


def given(config: pytest.Config) -> str:
    return config.getoption(OPTION) or str(config.getini(INI) or "").strip()


def batch_sizes(config: pytest.Config) -> tuple[int, ...]:
    """Those that are asked for: on the command line, else in the configuration, else the thresholds."""
    from detcheck.options import numbers
    from detcheck.schedules.batches import THRESHOLDS

    asked = given(config)
    if not asked:
        return tuple(THRESHOLDS)
    where = OPTION if config.getoption(OPTION) else INI
    try:
        read = numbers("1,8,64", 1, "whole numbers of rows from 1 up")(asked)
    except ValueError as error:
        raise pytest.UsageError(f"{where} {error}") from None
    if max(read) < 2:
        raise pytest.UsageError(f"{where} wants a size above 1 too: a row alone is compared with batches; got {asked}")
    return read


class Check:
    """A fixture's value: called with a function, it records what it saw, and fails the test unless that is a pass."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node, self._name = request.node, request.fixturename
        self.calls = 0

    def record(self, seen: Any, how: Mapping[str, object]) -> None:
        """`seen` has `name`, `verdict`, `note` and how far apart the results were."""
        __tracebackhide__ = True
        self.calls += 1
        row = {"check": self._name, "function": seen.name, "verdict": str(seen.verdict), **how}
        row |= {"max_ulp": seen.max_ulp, "max_abs": seen.max_abs}
        self._node.user_properties.append((PROPERTY, json.dumps(row)))
        if seen.verdict != "identical":
            raise AssertionError(seen.note)

    def close(self) -> None:
        """After the test: one that passed has checked something."""
        if not self.calls and self._node.stash.get(PASSED, False):
            pytest.fail(
                f"inconclusive: this test asks for the fixture {self._name} and never calls it, so nothing was checked. "
                f"Call {self._name}(function, ...), or leave the fixture out",
                pytrace=False,
            )


class BatchInvariant(Check):
    """`detcheck.assert_batch_invariant`, with the session's batch sizes."""

    def __call__(
        self,
        fn: Callable[..., Any],
        inputs: Sequence[object],
        batched: Sequence[int] = (0,),
        sizes: Sequence[int] | None = None,
        trials: int = 2,
    ) -> None:
        __tracebackhide__ = True
        from detcheck.probes.kernels.assertion import examine

        asked = batch_sizes(self._node.config) if sizes is None else tuple(sizes)
        seen = examine(fn, inputs, batched, asked, trials)
        self.record(seen, {"batch_sizes": list(seen.sizes), "trials": trials, "calls": seen.calls})


class Deterministic(Check):
    """`detcheck.assert_deterministic`."""

    def __call__(self, fn: Callable[..., Any], *arguments: Any, trials: int = 10, **keywords: Any) -> None:
        __tracebackhide__ = True
        from detcheck.harness.repeats import repeat

        self.record(repeat(fn, arguments, keywords, trials), {"trials": trials, "calls": trials})


@pytest.fixture
def assert_batch_invariant(request: pytest.FixtureRequest) -> Iterator[BatchInvariant]:
    """`assert_batch_invariant(fn, inputs)`: every row has the same bits in every batch, else the test fails and says where.

    Batch sizes are those of `--detcheck-batch-sizes`, unless `sizes` says others. A test that never calls it is an error.
    """
    check = BatchInvariant(request)
    yield check
    check.close()


@pytest.fixture
def assert_deterministic(request: pytest.FixtureRequest) -> Iterator[Deterministic]:
    """`assert_deterministic(fn, *arguments, trials=10)`: each call returns the same bits, else the test fails and says where.

    A test that never calls it is an error.
    """
    check = Deterministic(request)
    yield check
    check.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


class Reports:
    """What the tests' reports say: of this process, or sent by xdist's workers."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            found = [value for name, value in report.user_properties if name == PROPERTY]
            self._rows += [{"test": report.nodeid, **json.loads(value)} for value in found]


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Reports(session.config.stash[ROWS]), "detcheck-reports")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A line for each check, the worst first; with -q only for those that failed."""
    rows = config.stash[ROWS]
    if not rows or config.get_verbosity() < -1:
        return
    rank = ["run-variant", "batch-variant", "inconclusive", "identical"].index
    rows = sorted(rows, key=lambda row: (rank(row["verdict"]), natural(row["test"])))
    failed = [row for row in rows if row["verdict"] != "identical"]
    passed = rows[len(failed) :]
    most = 0 if config.get_verbosity() < 0 else len(passed) if config.get_verbosity() > 0 else SHOWN
    terminalreporter.write_sep("=", "detcheck")
    for row in (*failed, *passed[:most]):
        markup = {"green" if row["verdict"] == "identical" else "red": True}
        terminalreporter.write(f"{row['verdict']:<14}", **markup)
        terminalreporter.write_line(f" {row['test']}  {said(row)}")
    if 0 < most < len(passed):
        terminalreporter.write_line(f"{'':<14} and {len(passed) - most} more that are identical; -v shows them")
    counts = Counter(row["verdict"] for row in rows)
    tests = len({row["test"] for row in rows})
    terminalreporter.write_line(
        f"{plural(len(rows), 'check')} in {plural(tests, 'test')}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}"
    )


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that sorts [2] before [10], in whatever order workers ended."""
    return [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", text)]


def plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def said(row: Mapping[str, Any]) -> str:
    """What was called how often, and how far apart the results were."""
    from detcheck.text import visible

    met = row.get("batch_sizes")
    rows = "" if not met else f"batches of {met[0]} to {met[-1]} rows ({len(met)} sizes), "
    far = "" if row["max_ulp"] is None else f", up to {row['max_ulp']:.0f} ulp ({row['max_abs']:.3g}) apart"
    return f"{visible(row['function'])}: {rows}{row['calls']} calls{far}"
