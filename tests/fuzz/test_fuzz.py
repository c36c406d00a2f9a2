"""Every reader of what others wrote, tried with what it does not expect. `make fuzz` goes on for as long as one likes.

Here the examples are always the same, so that a failure in CI is one everywhere.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fuzzing import FOUND, Finds, limited, replayed, targets, tried
from hypothesis import HealthCheck, Phase, given, settings

FIXED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
NAMES = sorted(targets())


def tries(target, examples, one):
    """`one`, called with the same examples each time."""

    @settings(FIXED, max_examples=examples)
    @given(target.files)
    def reads(files):
        one(files)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of numbers that no side has
        reads()


@pytest.mark.parametrize("name", NAMES)
def test_no_traceback_no_wrong_pass_no_hang(name, tmp_path):
    target = targets()[name]
    finds = Finds(target, tmp_path)
    tries(target, target.examples, finds.run)
    assert not finds.kinds, [path.read_text()[:2000] for path in tmp_path.iterdir()]


class SeenError(Exception):
    """It is found: that is enough."""


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_fault_is_found(name, tmp_path, monkeypatch):
    target = targets()[name]
    monkeypatch.setattr(*target.fault)
    finds = Finds(target, tmp_path)

    def until_found(files):
        finds.run(files)
        if finds.kinds:
            raise SeenError

    with pytest.raises(SeenError):
        tries(target, target.examples, until_found)


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_found_is_mended(path):
    name, files = replayed(path)
    tried(targets()[name], files)


def test_a_hang_ends():
    def swallows():
        while True:
            try:
                while True:
                    pass
            except Exception:  # noqa: BLE001  as a reader may
                pass

    with pytest.raises(BaseException, match="processor time"), limited(0.2):
        swallows()


def test_a_find_is_a_file_that_can_be_read_again(tmp_path, monkeypatch):
    target = targets()["prompts"]
    monkeypatch.setattr(*target.fault)
    finds = Finds(target, tmp_path)
    files = {"p.jsonl": b'{"text": "one"}', "beside": b"\xff\x00"}
    finds.run(files)
    (path,) = tmp_path.iterdir()
    assert replayed(path) == ("prompts", files)
    script = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
    said = subprocess.run([sys.executable, script, "--replay", path], capture_output=True, text=True)
    assert said.returncode == 0 and "nothing is wrong with it" in said.stdout, said.stderr  # without the planted fault
