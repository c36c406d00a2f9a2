"""The pytest plugin, found by pytest as it is installed, in real runs: what passes, what fails, what summary and JUnit XML say."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytest_plugins = ["pytester"]

assert torch  # loaded before a run in this process could load it for itself alone

OPS = """
import itertools
import torch

count = itertools.count()

def sound(x):
    return x * 2

def by_batch(x):  # adds up in another order from three rows on
    return x + 1e-3 if len(x) > 2 else x

def noisy(x):
    return x + next(count)

INPUTS = (torch.arange(12.0).reshape(3, 4),)
"""


@pytest.fixture
def inner(pytester, monkeypatch):
    """(source of a test file, options) -> the result of a pytest of its own; in this process, which has torch, unless it has workers."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source, *options):
        uses_torch = "INPUTS" in source
        pytester.makepyfile(ops=OPS, test_it="import pytest\n" + "from ops import *\n" * uses_torch + source)
        how = pytester.runpytest_subprocess if "-n" in options else pytester.runpytest_inprocess
        return how("-p", "no:cacheprovider", *options)

    return run


ALL = """
@pytest.mark.parametrize("op", [sound, by_batch, noisy])
def test_batch(op, assert_batch_invariant):
    assert_batch_invariant(op, INPUTS)

def test_two(assert_batch_invariant, assert_deterministic):
    assert_batch_invariant(sound, INPUTS, sizes=(2, 3))
    assert_deterministic(sound, INPUTS[0], trials=3)

def test_draws(assert_deterministic):
    def draws():
        return {"loss": torch.rand(2, 3)}
    assert_deterministic(draws)

def test_plain():
    pass
"""


def test_the_sound_pass_and_the_planted_are_named(inner, tmp_path):
    """With workers, which see the tests, and a controller, which says what they saw."""
    done = inner(ALL, "--detcheck-batch-sizes", "1,2,4", "--junit-xml", str(tmp_path / "junit.xml"), "-n", "2")
    done.assert_outcomes(passed=3, failed=3)
    text = done.stdout.str()
    for said in (
        "by_batch is not batch-invariant: in rows-4 (copies of the row) 4 of 4 rows differ from input row 0 alone",
        "What to do: use kernels that add each row in one order",
        "noisy is not deterministic: row 0 of the same batch (alone) has other bits in trial 1",
        "draws is not deterministic: call 1 returned other bits than call 0. result['loss']: 6 of 6 elements differ, the first is [0, 0]",
        "10 calls gave 10 different results; the most common came in 1 of them",
        "It drew from the random numbers of torch. What to do: seed them inside draws",
    ):
        assert said in text
    section = text[text.index("= detcheck =") :].splitlines()
    assert section[1].startswith(
        "run-variant    test_it.py::test_batch[noisy]  noisy: batches of 1 to 4 rows (3 sizes)"
    )
    assert section[2].startswith("run-variant    test_it.py::test_draws  draws: 10 calls")
    assert section[3].startswith("batch-variant  test_it.py::test_batch[by_batch]  by_batch: ")
    assert " ulp (0.001) apart" in section[3]
    passed = ["test_it.py::test_batch[sound]", "test_it.py::test_two", "test_it.py::test_two"]
    assert [line.split()[:2] for line in section[4:7]] == [["identical", test] for test in passed]
    assert section[7] == "6 checks in 5 tests: 2 run-variant, 1 batch-variant, 3 identical"
    cases = {case.get("name"): case for case in ElementTree.parse(tmp_path / "junit.xml").iter("testcase")}
    found = [json.loads(p.get("value")) for p in cases["test_two"].iter("property")]
    assert [(f["check"], f["verdict"]) for f in found] == [
        ("assert_batch_invariant", "identical"),
        ("assert_deterministic", "identical"),
    ]
    assert found[0]["batch_sizes"] == [1, 2, 3] and found[1]["trials"] == 3
    assert not list(cases["test_plain"].iter("property"))


def test_what_checked_nothing_is_no_pass(inner):
    done = inner(
        """
def test_never(assert_batch_invariant):
    pass

def test_never_either(assert_deterministic):
    pass

def test_lone(assert_batch_invariant):
    assert_batch_invariant(sound, INPUTS, sizes=(1,))

def test_nothing(assert_deterministic):
    assert_deterministic(lambda: None)

def test_skipped(assert_batch_invariant):
    pytest.skip("for a reason")

def test_failed(assert_batch_invariant):
    assert 0, "of its own"
"""
    )
    done.assert_outcomes(passed=2, failed=3, errors=2, skipped=1)
    done.stdout.fnmatch_lines_random(
        [
            "*inconclusive: this test asks for the fixture assert_batch_invariant and never calls it*",
            "*inconclusive: this test asks for the fixture assert_deterministic and never calls it*",
            "*ValueError: sizes=(1,) has no batch of several rows*",
            "*returned nothing that could be compared*",
            "inconclusive   test_it.py::test_nothing*",
        ]
    )


@pytest.mark.parametrize(
    ("options", "shows", "hides"),
    [
        ((), ["= detcheck =", "identical      test_it.py::test_it[0]", "and 2 more that are identical; -v"], ["[21]"]),
        (("-v",), ["identical      test_it.py::test_it[21]"], ["more that are"]),
        (("-q",), ["22 checks in 22 tests: 22 identical"], ["identical      test_it"]),
        (("-qq",), [], ["detcheck", "identical"]),
        (("-k", "other"), [], ["= detcheck ="]),
    ],
)
def test_as_much_as_was_asked_for(inner, options, shows, hides):
    source = '@pytest.mark.parametrize("n", range(22))\ndef test_it(n, assert_deterministic):\n    assert_deterministic(str, n)\n'
    source += "def test_other():\n    pass\n"
    text = inner(source, *options).stdout.str()
    assert all(s in text for s in shows) and not any(h in text for h in hides), text


def test_sizes_of_the_configuration(inner, pytester):
    pytester.makeini("[pytest]\ndetcheck_batch_sizes = 1,6\n")
    source = "def test_it(assert_batch_invariant):\n    assert_batch_invariant(sound, INPUTS)\n"
    inner(source).stdout.fnmatch_lines(["identical *batches of 1 to 6 rows (2 sizes)*"])
    inner(source, "--detcheck-batch-sizes", "2,5").stdout.fnmatch_lines(["*batches of 1 to 5 rows (3 sizes)*"])
    for wrong, says in (("none", "wants whole numbers of rows from 1 up"), ("1", "wants a size above 1 too")):
        done = inner(source, "--detcheck-batch-sizes", wrong)
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        done.stderr.fnmatch_lines([f"*--detcheck-batch-sizes {says}*"])


def test_it_costs_nothing_where_it_is_not_used():
    """Nothing of detcheck's is imported at start, let alone what runs models."""
    code = """
import pytest, sys
before = set(sys.modules)
import detcheck.pytest_plugin
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("detcheck", "torch", "numpy", "pandas", "typer", "rich")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['detcheck', 'detcheck.pytest_plugin']", done.stdout + done.stderr


def test_the_page_says_what_pytest_says(pytester, monkeypatch):
    """The example of docs/pytest.md, and its excerpt: figures apart, word for word."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    page = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text("utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.S))
    pytester.makepyfile(test_norms=blocks["python"])
    options = shlex.split(blocks["console"].splitlines()[0].removeprefix("$ pytest "))
    said = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--tb=short", *options).stdout.str()

    def shape(text):
        return re.sub(r"[\d.]+(e[+-]\d+)?", "#", text)

    shown = [line for name in ("console", "text") for line in blocks[name].splitlines()[2 * (name == "console") :]]
    assert len(shown) == 9
    for line in shown:
        assert line == "..." or shape(line) in shape(said), line
