"""What the HTML page is made of, without a browser: paths of charts, texts that part, and the two sentences on what a verdict means."""

import itertools
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from detcheck import lookup
from detcheck.advice import advice
from detcheck.blocks import Column, Curve, DrawnTree, Matrix, Survival
from detcheck.finding import Branch, Finding, Fork, Variant
from detcheck.formats import md, terminal
from detcheck.formats.html import MOST_FORKS, nested, of_numbers
from detcheck.meaning import meaning
from detcheck.page import charts, diff, matrix, trees
from detcheck.probes.bisect.describe import describe
from detcheck.probes.bisect.judge import outlines
from detcheck.records import Case
from detcheck.summation.describe import Entry
from detcheck.summation.tree import Tree
from detcheck.verdict import Role, Verdict


def test_survival_steps_down_where_samples_leave():
    block = Survival("Same", "token", 10, 20, (("tokens", ((5, 8), (15, 2))), ("bits", ((0, 4),))))
    chart = charts.survival(block)
    assert chart.paths == (("tokens", "M0 0H250V200H750V800H1000"), ("bits", "M0 0H0V600H1000"))
    assert chart.numbers == (("0", "", "4 of 10"), ("5", "8 of 10", ""), ("15", "2 of 10", ""))
    assert "tokens: 2 of 10 in the end; bits: 4 of 10" in chart.label
    assert [said for _, said in chart.below] == ["0", "5", "10", "15", "20"]


def test_a_curve_leaves_a_gap_at_zero():
    chart = charts.curve(Curve("Apart", "token", "nats", ((0, 0.0, 1e-4), (1, 0.0, 0.0), (2, 0.0, 1e-2))))
    assert dict(chart.paths) == {"largest": "M0 1000h0M1000 0h0", "mean": ""}
    assert [said for _, said in chart.beside] == ["1e-4", "1e-3", "1e-2"]
    assert charts.curve(Curve("Apart", "token", "nats", ((0, 0.0, 0.0),))) is None


@pytest.mark.parametrize("last", [1, 2, 7, 99, 1023, 131_072])
def test_ticks_are_few_and_within(last):
    found = charts.ticks(last)
    assert 2 <= len(found) <= charts.TICKS + 1 and found[0] == (0, "0") and found[-1][0] <= 100


def said(pieces):
    return [text for text, alone in pieces if alone]


def test_texts_part_at_a_whole_word_and_meet_again():
    found = diff.diff("born in Queens, New York, in 1918", "born in New York City, in 1918")
    assert (found.before, found.shared) == ("born in ", 8)
    assert said(found.left) == ["Queens,", "York,"] and said(found.right) == ["York", "City,"]
    assert "".join(text for text, _ in found.left) == "Queens, New York, in 1918"


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        ("one two", "one two", 7),
        ("one", "one two", 3),
        ("", "x", 0),
        ("same ", "same x", 5),
        ("x" * 99, "x" * 98 + "y", 98),
    ],
)
def test_where_texts_part(a, b, shared):
    found = diff.diff(a, b)
    assert found.shared == shared
    assert a[:shared] + "".join(t for t, _ in found.left) == a and b[:shared] + "".join(t for t, _ in found.right) == b


def variant(name, leaves, text=""):
    return Variant(name, ord(name) - 65, name, 1, 9, leaves, leaves, text)


def test_the_token_of_a_fork_is_said_only_where_it_is_known():
    a, b, c, d = variant("A", None), variant("B", 3), variant("C", 7), variant("D", 3)
    assert [diff.part_at(*pair) for pair in ((a, b), (b, c), (b, d))] == [3, 3, None]


def test_a_long_common_beginning_is_left_out_and_the_rest_cut():
    texts = [variant("A", None, "w " * 5000 + "a" * 100), variant("B", 3, "w " * 5000 + "b\u202e")]
    left_out, shown = diff.shown(texts, 250)
    assert left_out == 10_000 - diff.BEFORE
    assert shown[0] == "w " * 100 + "a" * 50 + "…" and shown[1].endswith("b\\u202e")


def fork(number, at, above, count):
    return Fork(number, *above, at, tuple(Branch(count - n, n, str(n), None) for n in range(count)))


def test_forks_without_room_are_counted():
    root = fork(0, 3, (None, None), 60)
    below = [fork(1, 7, (0, 49), 2), fork(2, 7, (0, 50), 3), fork(3, 9, (2, 0), 2)]
    roots, left_out = nested((root, *below))
    assert len(roots) == 51 and roots[-1]["text"] == "... and 10 more ways on" and len(roots[49]["below"]) == 2
    assert left_out == 2  # below the 51st way on, and below that
    many = tuple(fork(n, n, (None, None) if n == 0 else (n - 1, 0), 2) for n in range(MOST_FORKS + 5))
    assert nested(many)[1] == 5 and nested((root,))[1] == 0


def test_terminal_and_markdown_count_them_too():
    root, below = fork(0, 3, (None, None), 14), [fork(1, 7, (0, 12), 2), fork(2, 8, (0, 11), 2), fork(3, 9, (1, 1), 2)]
    console = Console(record=True, width=80, file=StringIO())
    console.print(terminal.tree((root, *below)))
    for said in (console.export_text(), "\n".join(md.tree((root, *below)))):
        assert "and 2 more ways on" in said and "and 2 more forks; report.json has all" in said
        assert said.count("at 8") == 2 and "at 7" not in said and "at 9" not in said


def test_only_eight_outcomes_have_a_colour_and_other_bits_are_striped():
    columns = [Column("A1", 0, ""), Column("A2", 0, "", True), *(Column(chr(65 + n), n, "") for n in range(1, 10))]
    counts = (*range(len(columns)), 5)
    found = matrix.drawn(Matrix("m", tuple(columns), (("alone", counts),), 7))
    (_, cells), tints = found.rows[0], [tint for _, tint in found.columns]
    assert tints[:3] == ["on o0", "on o0 other-bits", "on o1"] and tints[-2:] == ["on", "on"]
    assert [cell.count for cell in cells] == [5, *range(len(columns))]
    assert [cell.tint for cell in cells] == ["on", "", *tints[1:]]


def test_trees_mark_what_the_other_has_not():
    one = DrawnTree("1", "", "", (Entry(0, True, "4 summands"), Entry(1, True, "<b>\u202e")))
    other = DrawnTree("2", "", "", (Entry(0, True, "4 summands"),))
    first, second = trees.columns([one, DrawnTree("unread", "", "", ()), other])
    assert first.boxes == ((0, "4 summands", False), (1, "<b>\\u202e", True)) and second.boxes == (
        (0, "4 summands", False),
    )


def test_a_cause_has_its_two_orders_side_by_side():
    """Those that were read; of the second call of an op there is nothing new to draw."""
    sequential = Tree(3, ((0, 1), (3, 2)))
    found = outlines({"alone": sequential, "batch": "it could not be read"})
    assert list(found) == ["alone"] and found["alone"][0].text
    case = Case("bisect", "aten::mm", "stock", "float32", "lm_head")
    finding = Finding(
        case, Verdict.BATCH_VARIANT, "", evidence={"bisection": {}, "culprit": {"op": "mm"}}, detail=found
    )
    (block,) = [b for b in describe(finding) if type(b).__name__ == "Trees"]
    assert block.on_pages and [tree.title for tree in block.trees] == ["the row alone"]


EVIDENCE = [{}, {"compared": "text", "batches": None}, {"unit": "element", "batches": 3}, {"changed": []}]


def test_every_verdict_of_every_probe_has_two_sentences():
    probes = [*lookup.names("probes"), "judge"]
    for probe, verdict, role, evidence in itertools.product(probes, Verdict, Role, EVIDENCE):
        case = Case(probe, "m", "stock", "float32", "0")
        text = meaning(Finding(case, verdict, "", samples=3, role=role, evidence=evidence))
        assert text.endswith(".") and text.count(". ") == 1 and "{" not in text, text


def test_what_is_not_known_is_not_claimed():
    case = Case("completions", "m", "stock", "", "0")
    same = Finding(case, Verdict.IDENTICAL, "", samples=3, evidence={"batches": 3, "compared": "bits"})
    assert "Every condition that was asked for came about" in meaning(same)
    assert "could not be seen" in meaning(replace(same, evidence={"batches": None, "compared": "tokens"}))
    control = replace(same, role=Role.REACTS)
    assert "no evidence" in meaning(control) and "It did," in meaning(replace(control, verdict=Verdict.BATCH_VARIANT))


def test_a_lone_request_whose_company_was_not_seen_may_have_had_some():
    case = Case("completions", "m", "stock", "", "0")
    unseen = Finding(case, Verdict.RUN_VARIANT, "", samples=3, evidence={"batches": None, "compared": "bits"})
    assert "the batch may still be the cause" in meaning(unseen) and "equal conditions" not in meaning(unseen)
    assert "nobody else's requests" in advice(unseen)
    seen = replace(unseen, evidence={"batches": 3, "compared": "bits"})
    assert "No choice of batches" in meaning(seen) and "not in the load" in advice(seen)


@pytest.mark.parametrize(
    ("evidence", "said", "advised"),
    [
        ({"varies_with": ["cache"], "first_variant_condition": "cold"}, "in the prefix cache", "leave the first answer out"),
        ({"varies_with": [], "first_variant_condition": "cold"}, "in the prefix cache", "leave the first answer out"),
        ({"varies_with": ["threads"], "unit": "element"}, "the number of threads", "torch.set_num_threads"),
        ({"varies_with": ["chunk", "padding"]}, "fed in, the padding around it", ""),
        ({"varies_with": ["slot"], "unit": "element"}, "its place in the batch", ""),
    ],
)  # fmt: skip
def test_where_bits_depend_on_something_else_the_batch_is_not_named(evidence, said, advised):
    case = Case("completions", "m", "stock", "float32", "0")
    finding = Finding(
        case, Verdict.BATCH_VARIANT, "", samples=9, evidence={"batches": 3, "compared": "bits", **evidence}
    )
    text = meaning(finding)
    assert said in text and "another batch" not in text and "who else" not in text and text.count(". ") == 1
    assert advised in advice(finding)
    mixed = replace(finding, evidence=finding.evidence | {"varies_with": ["batch", "threads"]})
    assert "another batch" in meaning(mixed)


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (("1", "", "12 (57.1%)", "1.5e-05", "<0.1", "-3", "1,024"), True),
        (("949f9b7abd2f", "19d5949d7510"), False),
        (("0:69ef93be",), False),
        (("equal", "3"), False),
    ],
)
def test_numbers_stand_on_the_right_and_names_on_the_left(cells, right):
    assert of_numbers(cells) is right
