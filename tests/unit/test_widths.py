"""What fits: every stored run's report and every help page at 80 columns, without a broken word; names shortened so that they stay apart."""

import itertools
import os
import re
import shlex

import pytest
from rich.cells import cell_len
from test_said import commands, help_of, still
from test_stored import NAMES, STORED

from detcheck import runner
from detcheck.fitting import breaks, continued, hung, shortened, shorter, table, wrapped
from detcheck.formats import terminal
from detcheck.report import described

WORD = re.compile(r"[^\s│├└─╭╮╰╯█…]+")
MODULES = [
    f"model.layers.{n}.{part}" for n in (1, 11) for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
]


@pytest.fixture
def rendered(monkeypatch):
    """(a stored run, columns) -> its lines in a terminal."""

    def lines(name, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.chdir(STORED / name)
        return terminal.render(described(runner.load("run"))).splitlines()

    return lines


NOTE = "…: parts of a name are left out; report.json has it in full"


def check(narrow, wide, columns):
    """No line is too long, and every word of the narrow text stands in the wide one: in full, or as what is left around a "…"."""
    too_long = [line for line in narrow if cell_len(line) > columns]
    assert not too_long, too_long
    there = set(WORD.findall(" ".join(wide)))
    broken = []
    for word in re.findall(r"[^\s│├└─╭╮╰╯█]+", " ".join(line for line in narrow if line != NOTE)):
        start, left_out, end = word.partition("…")
        full = [w for w in there if w.startswith(start) and w.endswith(end)] if left_out else {start} & (there | {"\\"})
        if word != "…" and not full:
            broken.append(word)
    assert not broken, broken


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [80, 120])
def test_a_report_fits_its_terminal_and_breaks_no_word(rendered, name, columns):
    check(rendered(name, columns), rendered(name, 1000), columns)


@pytest.mark.parametrize("name", ["bisect", "logprobs", "completions-vllm"])
def test_a_wide_terminal_is_used_and_a_narrow_one_leaves_nothing_out_silently(rendered, name):
    wide = rendered(name, 200)
    assert max(map(cell_len, wide)) > 100 and not any("…" in line for line in wide)
    figures = lambda lines: sorted(re.findall(r"\d[\d.e+-]*", " ".join(lines)))  # noqa: E731
    narrow = rendered(name, 80)
    assert figures(narrow) == figures(wide)
    assert any("report.json has it in full" in line for line in narrow) is (name == "bisect")


@pytest.mark.parametrize("name", commands())
def test_a_help_page_fits_80_columns_and_breaks_no_word(name, monkeypatch):
    def lines(columns):
        with still(STORED):
            os.environ["COLUMNS"] = str(columns)
            return help_of(name.split("-") if name != "detcheck" else []).splitlines()

    check(lines(80), lines(1000), 80)


def test_a_broken_word_is_seen_and_a_line_that_is_too_long():
    with pytest.raises(AssertionError, match="_proj"):
        check(["model.layers.0.q", "_proj"], ["model.layers.0.q_proj"], 80)
    with pytest.raises(AssertionError, match="aaaa"):
        check(["aaaa a"], ["aaaa a"], 5)
    with pytest.raises(AssertionError, match="…k_proj"):
        check(["…k_proj"], ["model.q_proj"], 80)


def test_a_name_loses_its_middle_at_its_dots():
    assert shorter("model.layers.11.self_attn.q_proj")[0] == "model…11.self_attn.q_proj"
    assert shortened(["model.layers.11.self_attn.q_proj"], 25).popitem()[1] == "model…11.self_attn.q_proj"
    assert shortened(["model.layers.11.self_attn.q_proj"], 24).popitem()[1] == "…11.self_attn.q_proj"
    assert shortened(["aten::_scaled_dot_product_attention"], 20).popitem()[1] == "…product_attention"
    assert shorter("0.00123") == shorter("lm_head") == shorter("a sentence. of words.") == []


@pytest.mark.parametrize("width", range(1, 40))
def test_names_stay_apart_at_every_width(width):
    found = shortened([*MODULES, "lm_head"], width)
    assert len(set(found.values())) == len(MODULES) + 1
    for name, short in found.items():
        start, _, end = short.partition("…")
        assert name.startswith(start) and name.endswith(end or start)
        assert cell_len(name) > width or short == name


@pytest.mark.parametrize("width", [30, 46, 60, 80])
def test_a_table_keeps_every_figure_and_its_width(width):
    lines = [("module", "calls", "that differ", "cause in")]
    lines += [(name, str(n), str(n % 7), "batch-2, ragged-2") for n, name in enumerate(MODULES, 100)]
    drawn, headings = table(lines, width)
    assert max(map(cell_len, drawn)) <= width or width < 46
    rows = "\n".join(drawn[headings:])
    assert re.findall(r"\b1\d\d\b", rows) == [str(n) for n in range(100, 106)]
    assert rows.count("batch-2,") == rows.count("ragged-2") == 6


def test_a_table_with_too_many_columns_is_turned():
    lines = [tuple(f"heading{n}" for n in range(12)), tuple(map(str, range(12)))]
    drawn, headings = table(lines, 80)
    assert headings == 1 and drawn[0].split() == ["heading0", "0"] and len(drawn) == 12


def test_numbers_stand_at_the_right_and_names_at_the_left():
    lines = [("tree", "bits", "share"), ("7022d1dad5c4", "9.98e-07", "12 (57.1%)"), ("0:69ef", "inf", "3 (1%)")]
    assert table(lines, 80)[0][1:] == ["7022d1dad5c4  9.98e-07  12 (57.1%)", "0:69ef             inf      3 (1%)"]


def test_east_asian_text_counts_two_cells_a_character():
    assert wrapped("甲乙丙 甲乙 甲", 9) == ["甲乙丙", "甲乙 甲"]
    drawn, _ = table([("name", "n"), ("甲乙", "1"), ("abc", "22")], 80)
    assert drawn == ["name   n", "甲乙   1", "abc   22"]


def test_text_is_broken_at_spaces_and_nowhere_else():
    text = "one  two three.four.five_six_seven eight"
    at = [0, *breaks(text, 10), len(text)]
    assert "".join(text[a:b] for a, b in itertools.pairwise(at)) == text
    assert wrapped(text, 10) == ["one  two", "three.four.five_six_seven", "eight"]
    assert wrapped("", 10) == [""] and wrapped("   indented", 4) == ["   indented"]


def test_an_outline_is_drawn_on_below_its_guides():
    assert hung("│  ├─ four summands in order", 20) == ["│  ├─ four", "│  │    summands in", "│  │    order"]


@pytest.mark.parametrize("width", [20, 50, 80, 300])
def test_a_command_in_several_lines_is_the_same_to_a_shell(width):
    command = 'detcheck completions --prompt \'Tell me  about "it"\' -n 16 --header "A B=C" --turns a\\ b.json'
    lines = continued(command, width)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    assert all(line.endswith("\\") for line in lines[:-1]) and (len(lines) > 1) is (width < 100)


def test_in_a_pipe_the_width_is_always_the_same(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda fallback: os.terminal_size(fallback))
    monkeypatch.chdir(STORED / "bisect")
    assert max(map(cell_len, terminal.render(described(runner.load("run"))).splitlines())) == terminal.IN_A_PIPE
