"""Does the order of prompts by score change: from scores that we wrote."""

import itertools
import random

import numpy as np
import pytest

from detcheck.finding import Finding
from detcheck.judge.ranks import Swap, changes, ranked
from detcheck.judge.tally import Tally
from detcheck.outcomes import row_outcome
from detcheck.records import Case, Condition, Observation
from detcheck.verdict import Verdict


def one(**by_condition):
    return {name: value if isinstance(value, tuple) else (value, value) for name, value in by_condition.items()}


TABLE = {  # name -> (scores of each prompt, what changes)
    "all as alone": ({"0": one(alone=3.0, batch=3.0), "1": one(alone=2.0, batch=2.0)}, []),
    "other numbers, the same order": ({"0": one(alone=3.0, batch=2.9), "1": one(alone=2.0, batch=2.8)}, []),
    "two change places": ({"0": one(alone=2.0, batch=2.0), "1": one(alone=3.0, batch=1.0)}, [("batch", "1", "0")]),
    "a tie in a batch is no change": ({"0": one(alone=3.0, batch=2.0), "1": one(alone=2.0, batch=2.0)}, []),
    "nor is one alone": ({"0": one(alone=2.0, batch=1.0), "1": one(alone=2.0, batch=3.0)}, []),
    "one row of several": (
        {"0": one(alone=3.0, batch=(1.0, 3.0)), "1": one(alone=2.0, batch=2.0)}, [("batch", "0", "1")],
    ),
    "behind a tie": (
        {"0": one(alone=3.0, batch=1.0), "1": one(alone=2.0, batch=0.0), "2": one(alone=2.0, batch=2.0)}, [("batch", "0", "2")],
    ),
    "only where both were": ({"0": one(alone=3.0, batch=1.0), "1": one(alone=2.0, other=2.0)}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_changes_places(name):
    scores, expected = TABLE[name]
    assert [(s.condition, s.above, s.below) for s in changes(scores)] == expected


def test_a_swap_is_found_exactly_where_a_pair_of_prompts_has_one():
    """Against a search over all pairs."""
    rng = random.Random(0)
    for _ in range(300):
        scores = {
            str(n): one(alone=float(rng.randint(0, 3)), batch=tuple(sorted(float(rng.randint(0, 3)) for _ in "ab")))
            for n in range(rng.randint(2, 5))
        }
        pairs = {
            (a, b)
            for a, b in itertools.permutations(scores, 2)
            if scores[a]["alone"][0] > scores[b]["alone"][0] and scores[a]["batch"][0] < scores[b]["batch"][1]
        }
        found = {(s.above, s.below) for s in changes(scores)}
        assert found <= pairs and {b for _, b in found} == {b for _, b in pairs}


def test_findings_say_it_and_only_of_scores():
    cases = [Case("batch", "m", "stock", "float32", f"{n}:aa") for n in range(3)]
    tallies, outcomes = {}, {}

    def observe(case, values):
        tally = tallies[case] = Tally()
        for batch, (name, value) in enumerate(values.items()):
            found = row_outcome(np.asarray(value, np.float32).view(np.int32), "float32")
            outcomes[found.id] = found
            tally.add(
                Observation(case, Condition(name, 1 + (name != "alone"), 0, name), 0, batch, 0, found.id), True, True
            )

    for case, (alone, batch) in zip(cases, [(3.0, 1.5), (2.0, 2.0), (1.0, 1.0)], strict=True):
        observe(case, {"alone": [alone], "batch-4": [batch]})
    drafts = [Finding(case, Verdict.BATCH_VARIANT, "bits differ") for case in cases]
    first, second, third = ranked(drafts, tallies, outcomes)
    swap = {"condition": "batch-4", "above": "0:aa", "below": "1:aa"}
    assert first.evidence["order"] == second.evidence["order"] == {"prompts": 3, "swaps": [swap]}
    assert first.note == f"bits differ; by score it changes places: {Swap('batch-4', '0:aa', '1:aa')}"
    assert "in batch-4 prompt 0 scores below prompt 1, which it leads where each is alone" in first.note
    assert third.evidence["order"] == {"prompts": 3, "swaps": []} and third.note == "bits differ"
    assert all("order" not in f.evidence for f in ranked(drafts[:1], {cases[0]: tallies[cases[0]]}, outcomes))
    observe(cases[2], {"alone": [1.0, 2.0]})  # an embedding is no score
    assert ranked(drafts, tallies, outcomes) == drafts
