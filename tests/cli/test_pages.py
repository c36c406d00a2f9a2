"""Tutorial and FAQ are true: their commands run one after the other, in one folder, and print what is shown, with the exit codes that are shown.

Figures differ from machine to machine and are left out of the comparison; what is compared is every part that is shown, without a gap, in the
order in which they stand. Stock is one that reacts to the batch, whatever this machine's own does.
"""

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FIGURE = re.compile(r"[\d.]+(e[+-]\d+)?%?")


def blocks(text):
    """Each command of the console blocks, and what is shown behind it: the parts between empty lines and lines of `...`."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            parts = re.split(r"^(?:\.\.\.)?\n", shown, flags=re.M)
            found.append((command, [part.strip() for part in parts if part.strip()]))
    return found


def shape(text):
    text = " ".join(text.split())
    text = re.sub(r"first in [\w-]+: the bits depend on \w+( or \w+|, \w+)*", "first in #: the bits depend on #", text)
    text = re.sub(r"aten::mm · stock · float32 · [\w.]+", "aten::mm · stock · float32 · #", text)
    return FIGURE.sub("#", text)


def not_printed(shown, printed):
    """The parts shown that were not printed, in this order."""
    rest, lost = shape(printed), []
    for part in shown:
        _, found, after = rest.partition(shape(part))
        if found:
            rest = after
        else:
            lost.append(part)
    return lost


def run(name, detcheck):
    """Runs a page; the commands of detcheck on it."""
    code, before, commands = None, "", []
    for command, shown in blocks((DOCS / name).read_text("utf-8")):
        program, *words = shlex.split(command)
        words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
        if program == "echo":
            assert shown == [str(code)], f"after `{before}`"
        elif program == "cp":
            shutil.copy(*words)
        else:
            assert program == "detcheck"
            result = detcheck(*words)
            code, before = result.code, command
            commands.append(words[0])
            assert not_printed(shown, result.out) == [], f"of `{command}`:\n{result.out}\n{result.err}"
    return commands


def test_the_tutorial_runs(detcheck, reacting):
    assert run("tutorial.md", detcheck) == ["completions", "bisect", "completions", "completions", "completions"]


def test_the_faq_runs(detcheck):
    assert run("faq.md", detcheck) == ["matmul", "completions"]


@pytest.mark.parametrize(
    ("shown", "lost"),
    [
        ("all 12 samples have the same bits", []),
        ("all samples have other bits", ["all samples have other bits"]),
        ("batch-variant  completions", ["batch-variant  completions"]),
    ],
)
def test_a_part_that_is_not_printed_is_seen(shown, lost):
    assert not_printed([shown], "identical  completions\nall 8 samples have\nthe same bits") == lost


def test_parts_in_another_order_are_seen():
    assert not_printed(["b", "a"], "a\nb") == ["a"]
