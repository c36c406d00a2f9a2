"""Facts of a bisection: they come back from what is stored, an older run's too, and every reason has its words."""

import json

from detcheck.probes.bisect.causes import causes
from detcheck.probes.bisect.collect import LONE, Kinds, evidence
from detcheck.probes.bisect.facts import (
    AGAIN,
    IN_THE_RUN,
    BatchForm,
    Bisected,
    Control,
    Followed,
    Site,
    Stage,
    TensorForm,
    from_json,
    to_json,
)
from detcheck.probes.bisect.judge import not_compared, told
from detcheck.probes.bisect.reasons import SENTENCES
from detcheck.reason import Reason
from detcheck.replay import Difference, Untested, first_size
from detcheck.summation.tree import Tree

TREE = Tree(3, ((0, 1), (3, 2)))
FORM = TensorForm((1, 8), "float32", (8, 1))
SITE = Site(
    7,
    "aten::mm",
    "lm_head",
    1,
    "lm_head.weight",
    (FORM,),
    (FORM,),
    "m.py:3",
    Difference(8, 2, 4.0, 1e-7),
    2,
    "",
    {"alone": TREE},
)


def made():
    kinds = Kinds()
    for layer in range(3):
        kinds.add(
            "aten::mm",
            f"layers.{layer}.up",
            False,
            True,
            True,
            [evidence(layer, "batch-2", AGAIN, [5, 5], [9, 9])],
            lambda: SITE,
        )
    kinds.add("aten::exp", "layers.0", False, True, False, [], lambda: SITE)
    kinds.add("module MLP", "layers.0", True, False, False, [], lambda: SITE)
    return Bisected(
        (BatchForm("batch-2", 2, 1, 0),), 12, 2, 2, 2, kinds.made(),
        ((Reason(Untested.MIXES_ROWS), 4), (Reason(Untested.RAISES_ALONE, {"error": "ValueError"}), 1)),
        {"aten::cat": 1}, {"aten::where": 2}, {LONE: ("a", "a"), "batch-2": ("b", "b")},
        Control("aten::embedding", "embed", True, 8, 3, 2.0, {LONE: "a"}), Followed("batch-2", 3, 64),
        (Stage((), {"op": "aten::mm", "path": "lm_head", "step": 0}, ("aten::mm lm_head",), False),),
    )  # fmt: skip


def test_facts_come_back_as_they_were():
    assert from_json(to_json(made())) == made()


def test_calls_of_one_op_at_one_place_of_all_layers_are_one_kind():
    mm, exp = made().kinds  # a module that is no cause is left out
    assert (mm.pattern, mm.calls, mm.differing_calls, len(mm.evidence)) == ("layers.*.up", 3, 3, 3)
    assert (exp.calls, exp.first) == (1, None)
    (cause,) = causes(made())
    assert (cause.kind, cause.run, cause.batch, cause.conditions) == (mm, False, True, ("batch-2",))


def test_what_is_not_compared_is_said_in_words_that_are_not_stored():
    facts, text = made(), to_json(made())
    assert "of 4 calls it mixes the rows" in not_compared(facts)
    assert "of 1 calls it raises ValueError when it is asked with the prompt's rows alone" in not_compared(facts)
    assert "mixes the rows" not in text and "sequential" not in text
    assert told(causes(facts)[0], "", True)["order_of_additions"] == {"alone": f"sequential ({TREE.hash})"}


def test_every_reason_has_its_words():
    assert set(SENTENCES) == set(Untested)


def test_an_older_run_had_reasons_and_orders_in_words():
    stored = json.loads(to_json(made()))
    stored["untested"] = {"it mixes the rows": 4}
    stored["kinds"][0]["first"]["order_of_additions"] = {"alone": "sequential (abc)"}
    facts = from_json(json.dumps(stored))
    assert "of 4 calls it mixes the rows" in not_compared(facts)
    assert told(causes(facts)[0], "", True)["order_of_additions"] == {"alone": "sequential (abc)"}


def test_the_smallest_size_with_other_bits():
    assert first_size(1, 8, lambda rows: rows >= 5, False) == 5
    assert first_size(1, 8, lambda rows: True, False) == 1


def test_hashes_are_numbered():
    found = evidence(3, "batch-2", IN_THE_RUN, [77, 77], [5, 77, 6])
    assert (found.alone, found.batch, found.shows) == ((0, 0), (1, 0, 2), (True, False))
