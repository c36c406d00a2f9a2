"""What a run of `order` stores: it comes back as it was, older runs are read, and every code has its sentence. No torch."""

import ast
import json
import string
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import detcheck
from detcheck.condition_name import named
from detcheck.judge.tally import Tally
from detcheck.outcomes import digest_outcome
from detcheck.probes.order.facts import Checked, Place, Proved, Repeats, Revealed
from detcheck.probes.order.judge import findings, outputs
from detcheck.probes.order.reasons import OF_THE_OP, SENTENCES, sentence
from detcheck.reason import Reason
from detcheck.records import Case, Condition, Observation
from detcheck.summation.tree import NotATreeError, Tree
from detcheck.verdict import Verdict

ROOT = Path(detcheck.__file__).parent
TREE = Tree(4, ((0, 1), (4, 2), (5, 3)))
SURE = Revealed(4, TREE.hash, TREE.nodes, "float32", Checked(1024, 1024), bits="b1", sure=True)
CASE = Case("order", "an:op", "user", "float32", "4")
# Of version 0.1.0, which stored sentences, the tree in words, and its outline.
OLD = (
    '{"adds_in": "float32", "bits": "b1", "checked": {"columns": 1024, "equal": 1024}, "children": [[0, 1], [4, 2], [5, 3]], "length": 4, '
    '"outline": ["4 summands, in order, +1 each"], "repeats": {"calls": 0, "distinct": 1, "left": 0}, "spelled": "chain(4@+1 .)", '
    '"sure": true, "tree": "98b137e29122", "why": "", "words": "sequential"}'
)
OLD_UNREAD = (
    '{"adds_in": "", "bits": "b2", "checked": {"columns": 0, "equal": 0}, "children": [], "length": 4, "outline": [], "proved": {"pairs": 0, '
    '"unlike": 0}, "repeats": {"calls": 20, "distinct": 1, "left": 0}, "spelled": "", "sure": false, "tree": "", "words": "", '
    '"why": "it is no plain sum: {zeros} give 1"}'
)


@pytest.mark.parametrize(
    "order",
    [
        Revealed(0),
        SURE,
        replace(SURE, sure=False, proved=Proved(12, 2), why=Reason("meets_elsewhere", {"pairs": 12, "unlike": 2})),
        Revealed(4, repeats=Repeats(20, 2, 1), why=NotATreeError("odd_count", i=0, j=1, count=0.1234567).reason),
    ],
)
def test_an_order_comes_back_as_it_was_stored(order):
    text = json.dumps(order.to_json(), sort_keys=True)
    back = Revealed.from_json(json.loads(text))
    assert back == order and hash(back) == hash(order)
    assert json.dumps(back.to_json(), sort_keys=True) == text


def test_what_an_older_version_stored_is_read():
    assert Revealed.from_json(json.loads(OLD)) == SURE
    unread = Revealed.from_json(json.loads(OLD_UNREAD))
    assert (unread.proved, unread.repeats, unread.sure) == (Proved(), Repeats(20), False)
    assert sentence(unread.why) == "it is no plain sum: {zeros} give 1"


@given(st.sets(st.integers(0, 70), min_size=1), st.sets(st.integers(0, 5000), min_size=1, max_size=40))
def test_a_place_is_read_back(rows, columns):
    place = Place(tuple(sorted(rows)), tuple(sorted(columns)))
    assert Place.parse(str(place)) == place


def test_a_place_in_words():
    place = Place((0, 1, 2, 3), (7,))
    assert str(place) == place.short() == "rows 0-3, columns 7"
    many = Place((0,), tuple(range(0, 40, 2)))
    assert many.short() == "rows 0, columns 0, 2, 4, 6, 8, 10, 12, ..., 38"


def judged(*seen):
    """(rows, place, text) of each revealing -> the finding."""
    tally, outcomes = Tally(), {}
    for n, (rows, place, text) in enumerate(seen):
        made = replace(digest_outcome(text.encode()), text=text)
        outcomes[made.id] = made
        condition = Condition(named("rows", rows, 2), rows, 0, str(place), 2)
        tally.add(Observation(CASE, condition, n, n, 0, made.id), True, False)
    return findings(CASE, None, tally, outcomes)[0]


def stored(order):
    return json.dumps(order.to_json(), sort_keys=True)


def test_an_order_is_the_same_in_the_form_of_an_older_version():
    """As where a run of then is resumed now."""
    one, eight = Place((0,), (0, 1)), Place(tuple(range(8)), (0, 1))
    new = stored(SURE)
    found = judged((1, one, OLD), (1, one, new), (8, eight, OLD), (8, eight, new))
    assert (found.verdict, found.distinct, found.mode_count) == (Verdict.IDENTICAL, 1, 4), found.note
    (order,) = found.evidence["orders"]
    assert order["words"] == "sequential" and order["why"] == ""
    assert order["conditions"] == [
        "1 in the batch (rows 0, columns 0-1; threads 2)",
        "8 in the batch (rows 0-7, columns 0-1; threads 2)",
    ]


def test_sentences_are_made_when_it_is_judged():
    unread = Revealed(4, bits="b1", why=Reason("more_orders", {"most": 6}))
    place = Place((0,), (0,))
    found = judged((1, place, stored(unread)), (2, place, stored(unread)))
    said = "more than 6 orders within one call: the others are told apart, not read"
    assert found.evidence["orders"][0]["why"] == said and said in found.note and said not in stored(unread)


def test_what_is_no_number_is_one_reason_like_any_other():
    unread = stored(Revealed(4, bits="b1", why=NotATreeError("odd_count", i=0, j=1, count=np.nan).reason))
    found = judged((1, Place((0,), (0,)), unread), (2, Place((0, 1), (0,)), unread))
    (order,) = found.evidence["orders"]
    assert order["why"].endswith("the result counts nan of the others") and len(order["conditions"]) == 2


def test_outputs_are_those_of_the_places():
    """With 2 rows in the batch and 4 rows of results, a row of the batch gives 2 sums a column."""
    found = {Condition("rows-2-threads-1", 2, 0, str(Place((0, 1, 2, 3), (5,))), 1): Counter({SURE: 1})}
    assert outputs(found) == {(2, 1): {(0, 5): {SURE}, (1, 5): {SURE}}}


def test_numbers_of_a_reason_are_plain_and_have_the_digits_that_are_said():
    values = NotATreeError("odd_count", i=np.int64(3), j=4, count=np.float64(1.23456789)).reason.values
    assert values == {"i": 3, "j": 4, "count": 1.23457}
    assert [type(value) for value in values.values()] == [int, int, float]


def reasons():
    """(where, code, names of its values) of every reason that is made in the source."""
    for path in (*(ROOT / "probes" / "order").glob("*.py"), ROOT / "summation" / "tree.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            first = node.args[0] if node.args else None
            if not isinstance(first, ast.Constant):
                continue
            if node.func.id == "Reason":
                keys = node.args[1].keys if len(node.args) > 1 else []
                yield f"{path.name}:{node.lineno}", first.value, {key.value for key in keys}
            elif node.func.id in ("NotATreeError", "NotASumError", "NoRoomError"):
                yield f"{path.name}:{node.lineno}", first.value, {word.arg for word in node.keywords}


def names(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_code_has_a_sentence_with_its_names_given():
    found = list(reasons())
    for where, code, given_names in found:
        wanted = {"op"} if code in OF_THE_OP else names(SENTENCES[code])
        assert given_names == wanted, where
    assert {code for _, code, _ in found} == set(SENTENCES), "a sentence that nobody gives"


def test_every_sentence_can_be_said():
    for code, text in SENTENCES.items():
        values = dict.fromkeys(names(text), 3.0)
        assert Reason(code, values).sentence(SENTENCES).strip(), code


def test_no_reason_and_a_reason_of_an_op_that_is_gone():
    assert sentence(None) == ""
    assert sentence(Reason("shown_by_the_op", {"op": "gone"})).startswith("gone was held for an op whose order")
    assert sentence(Reason("shown_by_the_op", {"op": "matmul"})).startswith("matmul was held")


def test_the_reasons_of_ops_are_said_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from detcheck.op import Unreadable, every\n"
        "from detcheck.probes.order.reasons import OF_THE_OP, sentence\n"
        "from detcheck.reason import Reason\n"
        "for op in every():\n"
        "    for code in OF_THE_OP if isinstance(op.order, Unreadable) else ():\n"
        "        text = sentence(Reason(code, {'op': op.name}))\n"
        "        assert op.order.text in text and op.order.seen in text, text\n"
        "        print(op.name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) >= {"softmax", "rmsnorm", "silu_mul"}
