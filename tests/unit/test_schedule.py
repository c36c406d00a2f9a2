"""The schedule is a pure function of what was asked: it fits, it crosses the thresholds, it repeats everything."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcheck.errors import UsageError
from detcheck.records import FIRST_AGAIN
from detcheck.schedules.batches import THRESHOLDS, Plan, compose, schedule
from detcheck.schedules.wanted import Wanted
from detcheck.schedules.widths import edges, swept


def make(samples, trials=2, sizes=None, seed=0, max_rows=1000, length=40, longest=80, widest=1000, conditions=None):
    return schedule({"0:aa": length}, Wanted(samples, 4, trials, conditions, sizes, seed), max_rows, longest, widest)


@given(st.integers(2, 3000), st.integers(1, 3), st.integers(1, 300))
def test_samples_come_out_exactly_and_every_condition_is_repeated(samples, trials, max_rows):
    steps = make(samples, trials, max_rows=max_rows).steps
    assert sum(s.samples for s in steps) == samples
    assert [s.index for s in steps] == list(range(len(steps)))
    assert all(s.samples and len(s.rows) <= max_rows for s in steps)
    if samples >= trials:
        assert min(Counter((s.condition, s.rows) for s in steps).values()) >= trials


@given(st.integers(2, 2000), st.sets(st.sampled_from(THRESHOLDS[:12]), min_size=1, max_size=3), st.integers(1, 5))
def test_sizes_that_were_asked_for_come_exactly_or_are_refused(samples, sizes, trials):
    try:
        steps = make(samples, trials, sizes=tuple(sizes)).steps
    except UsageError as error:
        assert "need at least" in str(error)
        return
    assert {len(s.rows) for s in steps} == sizes
    assert sum(s.samples for s in steps) == samples
    assert min(Counter((s.condition, s.rows) for s in steps).values()) >= trials


def test_24_samples_meet_several_sizes_and_1000_meet_all():
    assert {len(s.rows) for s in make(24).steps} >= {1, 2, 3, 4, 7, 8}
    all_steps = make(1000).steps
    assert {len(s.rows) for s in all_steps} == set(THRESHOLDS)
    assert make(1000).not_tried == ()


def test_1000_samples_cost_about_as_many_batches_as_there_are_thresholds():
    steps = make(1000).steps
    assert len(steps) <= 66
    assert sum(len(s.rows) for s in steps) <= 4 * 1000


def test_what_is_left_out_is_named_with_its_reason():
    few, small = make(24), make(1000, max_rows=20)
    assert any(left_out.what == "batch-257" for left_out in few.not_tried)
    assert "batch-31: memory is estimated to hold 20 rows" in map(str, small.not_tried)


def test_small_sizes_first_and_repeats_follow_each_other():
    steps = [s for s in make(24).steps if not s.padding]
    assert [len(s.rows) for s in steps] == sorted(len(s.rows) for s in steps)
    assert [s.trial for s in steps[:4]] == [0, 1, 0, 1]


def test_extra_repeats_come_at_the_end():
    late = make(3001).steps
    assert late[-1].trial >= 2 and all(s.trial < 2 for s in late[:10])


def test_samples_ride_at_varied_rows_with_fillers_before_and_after():
    steps = make(1000).steps
    alone = {s.rows.index(0) for s in make(24).steps}
    assert len(alone) > 2
    for s in steps:
        if s.condition.startswith("ragged"):
            assert s.rows[0] > 40 and s.rows[-1] != 0  # a longer one before: the sample is padded
            assert min(r for r in s.rows if r) < 40
        elif 0 in s.rows:
            assert set(s.rows) <= {0, 40}


def test_it_is_seeded():
    assert make(100) == make(100)
    assert make(100).steps != make(100, seed=1).steps


def test_fillers_fit_the_context():
    steps = make(100, length=40, longest=41).steps
    assert max(max(s.rows) for s in steps) == 41


def test_where_no_longer_neighbour_fits_nothing_is_called_ragged():
    tight = make(100, length=40, longest=40)
    assert not any(s.condition.startswith("ragged") for s in tight.steps)
    assert any(str(left_out).startswith("ragged-8: the context has no room") for left_out in tight.not_tried)


def test_sizes_beyond_memory_are_refused_where_they_were_asked_for():
    with pytest.raises(UsageError, match="memory is estimated to hold 8 rows"):
        make(100, sizes=(1, 64), max_rows=8)


def widths(found):
    """Condition -> how wide its rows are, where they are padded."""
    return {
        s.condition: max(s.padding + 40, *s.rows) for s in found.steps if s.padding or s.condition.startswith("ragged")
    }


def test_ragged_batches_and_the_prompt_alone_are_as_wide_as_the_edges():
    found = widths(make(100))
    assert {f"padded-{w}": w for w in edges(40)}.items() <= found.items() and edges(40) == (65, 64, 63, 129, 128, 127)
    assert [found[f"ragged-{n}"] for n in (4, 8, 16)] == [65, 64, 63]
    assert {f"padded-{w}" for w in (65, 64, 63)} <= {s.condition for s in make(40).steps}  # each soon behind its batch
    assert not {s.condition for s in make(100, widest=None).steps} & set(found) - {"ragged-4", "ragged-8", "ragged-16"}


def test_edges_lie_behind_the_prompt_and_every_width_of_a_tile_is_swept(every_width):
    for length in (*range(1, 300), 4095, 4096, 4097):
        assert len(set(edges(length))) == 6 and length < min(edges(length)) and max(edges(length)) <= length + 258
        found = swept(length, [length + 7, length, 9000], length + 200)
        assert {width % 32 for width in found} == set(range(32)) and length < min(found)
        assert found == sorted(set(found)) and found[-1] <= length + 200


def test_where_the_context_is_full_widths_that_do_not_fit_are_named():
    found = make(100, widest=64)
    assert {name for name in widths(found) if name.startswith("padded")} == {"padded-64", "padded-63"}
    assert "padded: the context has no room for a wider row" in map(str, found.not_tried)
    assert "padded" not in {left_out.what for left_out in make(100).not_tried}


def test_prompts_of_other_lengths_have_their_own_widths():
    lengths = {"0:aa": 40, "1:bb": 70}
    steps = schedule(lengths, Wanted(100, 4, 2, None, None, 0), 1000, 140, 1000).steps
    for name, length in lengths.items():
        assert {s.padding + length for s in steps if s.input == name and s.padding} == set(edges(length))
        assert sum(s.samples for s in steps if s.input == name) == 100


@given(st.integers(2, 9), st.integers(1, 60), st.integers(0, 20))
def test_a_ragged_batch_holds_its_samples_and_is_as_wide_as_was_asked(size, length, seed):
    width = edges(length)[0]
    rows = compose(Plan("ragged", size, True, 2), length, width, random.Random(seed), width)
    assert len(rows) == size and rows.count(0) == 1 and max(rows) == width


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(24, 4, 1), "it is asked for once (--trials 1)"),
        (Wanted(24, 4, 2, fail_fast=True), "--fail-fast stops at the first divergence"),
    ],
)
def test_a_run_that_does_not_ask_the_first_prompt_again_says_so(wanted, why):
    told = [n.reason for n in schedule({"0:a": 40, "1:b": 40}, wanted, 1000, 80).not_tried if n.what == FIRST_AGAIN]
    assert told == [f"{why}, so a change between two prompts is not seen"]
    assert FIRST_AGAIN not in {n.what for n in schedule({"0:a": 40}, wanted, 1000, 80).not_tried}
    asked = schedule({"0:a": 40, "1:b": 40}, Wanted(24, 4, 2), 1000, 80)
    assert asked.steps[-1].input == "0:a" and FIRST_AGAIN not in {n.what for n in asked.not_tried}
