"""The schedule for an engine that forms its batches itself: exact counts, what each condition is made of, what cannot be had."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcheck.engine import Decoded, RequestTrace
from detcheck.errors import UsageError
from detcheck.schedules import arrivals as traffic
from detcheck.schedules.arrivals import EngineLimits, came_about, schedule
from detcheck.schedules.wanted import Wanted

ROOMY = EngineLimits(max_rows=300, token_budget=8192, cache_block=128, room=1024)


def plan(samples=100, length=300, max_tokens=64, trials=2, conditions=None, sizes=None, seed=0, limits=ROOMY):
    return schedule({"0:aa": length}, Wanted(samples, max_tokens, trials, conditions, sizes, seed), limits)


@given(
    st.integers(1, 1200), st.integers(1, 700), st.integers(1, 130), st.integers(1, 3), st.integers(1, 300),
    st.integers(16, 8192), st.sampled_from([0, 16, 128]), st.integers(1, 2048),
)  # fmt: skip
def test_samples_come_out_exactly_and_every_condition_is_repeated(
    samples, length, tokens, trials, rows, budget, block, room
):
    made = plan(samples, length, tokens, trials, limits=EngineLimits(rows, budget, block, room))
    assert sum(step.samples for step in made.steps) == samples
    assert [step.index for step in made.steps] == list(range(len(made.steps)))
    repeats = {}
    for step in made.steps:
        repeats.setdefault((step.condition, step.rows, step.traffic), []).append(step)
        assert len(step.rows) == len(step.traffic.arrivals) == len(step.traffic.new_tokens) <= rows
        assert max(step.rows) <= max(room, length)
    if samples >= trials:
        assert min(map(len, repeats.values())) >= trials


def test_the_same_question_makes_the_same_schedule():
    assert plan() == plan()
    assert plan(seed=1) != plan()


def test_every_kind_is_tried_by_default_and_a_thousand_samples_cost_little_more():
    for samples in (24, 100, 1000):
        made = plan(samples)
        rows = sum(len(step.rows) for step in made.steps)
        assert rows <= samples + 2 * traffic.FILLER_ROWS
        kinds = {traffic.kind_of(step.condition) for step in made.steps}
        assert kinds == (set(traffic.KINDS) if samples > 24 else kinds)
    assert len(kinds) == len(traffic.KINDS)
    assert sum(len(step.rows) for step in plan(1000).steps) <= 1.25 * 1000


def of(made, name):
    return next(step for step in made.steps if step.condition == name)


def test_arrivals_are_in_engine_steps_and_all_meet():
    step = of(plan(conditions=("staggered-16",)), "staggered-16")
    assert step.traffic.arrivals == tuple(range(0, 48, 3))
    tight = of(plan(max_tokens=18, conditions=("staggered-16",)), "staggered-16")
    assert tight.traffic.arrivals == tuple(
        range(16)
    )  # gaps shrink, so that the first is still there when the last comes


def test_ragged_neighbours_are_of_other_lengths_and_leave_and_join_while_the_sample_is_decoded():
    step = of(plan(samples=4, conditions=("ragged-16",)), "ragged-16")
    fillers = [slot for slot, length in enumerate(step.rows) if length]
    lengths = [step.rows[slot] for slot in fillers]
    assert min(lengths) < 300 < max(lengths)
    early = [slot for slot in fillers if 0 < step.traffic.new_tokens[slot] < 64 and not step.traffic.arrivals[slot]]
    late = [slot for slot in fillers if step.traffic.arrivals[slot] > 0]
    assert len(early) >= 4 and len(late) >= 4


def test_chunked_and_cached_differ_from_the_wave_only_in_how_they_are_fed():
    made = plan(samples=12, conditions=("alone", "chunked-1", "cached-1", "wave-8", "chunked-8", "cached-8"))
    assert of(made, "alone").rows == of(made, "chunked-1").rows == of(made, "cached-1").rows == (0,)
    assert of(made, "wave-8").rows == of(made, "chunked-8").rows == of(made, "cached-8").rows
    assert of(made, "chunked-1").traffic.token_budget == 64 and of(made, "cached-8").traffic.cached
    assert [traffic.fed(name) for name in ("chunked-8", "cached-1", "wave-8")] == ["chunk", "cache", ""]


def test_neighbours_around_blocks_and_splits():
    step = of(plan(samples=2, conditions=("edges-8",)), "edges-8")
    assert {127, 129, 255, 257} <= set(step.rows)


@pytest.mark.parametrize(
    ("changes", "left_out", "why"),
    [
        ({"limits": EngineLimits(8, 8192, 128, 1024)}, "wave-16", "the engine holds 8 requests"),
        ({"limits": EngineLimits(300, 8192, 0, 1024)}, "cached-1", "keeps no prefix cache"),
        ({"length": 100}, "cached-8", "do not fill a block of 128"),
        ({"length": 1}, "chunked-1", "a single token"),
        ({"limits": EngineLimits(300, 8192, 128, 1024, "it cuts none")}, "chunked-1", "it cuts none"),
        ({"max_tokens": 2}, "staggered-4", "over before anybody joins"),
        ({"limits": EngineLimits(300, 8192, 128, 300)}, "ragged-4", "no room for neighbours"),
        ({"max_tokens": 4, "limits": EngineLimits(300, 900, 128, 1024)}, "wave-64", "would have ended before the last came in"),
        ({"samples": 8}, "wave-16", "8 samples are used up"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_left_out_with_its_reason(changes, left_out, why):
    made = plan(**{"samples": 1000} | changes)
    (line,) = [str(each) for each in made.not_tried if each.what == left_out]
    assert why in line
    assert left_out not in {step.condition for step in made.steps}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"conditions": ("cached",), "length": 100}, "cannot have cached-1: the prompt's 100 tokens"),
        ({"conditions": ("wave-301",)}, "the engine holds 300 requests"),
        ({"sizes": (1, 301)}, "--batch-sizes: cannot have wave-301"),
        ({"conditions": ("wave",), "samples": 3}, "need at least"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_refused(changes, why):
    with pytest.raises(UsageError, match=why):
        plan(**changes)


@pytest.mark.parametrize("name", ["waves", "wave-x", "alone-2", "wave-1", "", "batch-8"])
def test_a_condition_that_does_not_exist_is_refused(name):
    with pytest.raises(UsageError, match=r"no such condition\. Use alone, wave"):
        traffic.check((name,))
    traffic.check(("alone", "wave-100", "chunked-1", "staggered"))


def test_conditions_are_chosen_by_name_kind_or_size():
    assert {s.condition for s in plan(conditions=("alone", "wave-100")).steps} == {"alone", "wave-100"}
    assert {traffic.kind_of(s.condition) for s in plan(conditions=("chunked",)).steps} == {"chunked"}
    sized = {s.condition for s in plan(sizes=(1, 5)).steps}
    assert {"alone", "wave-5", "staggered-5", "ragged-5"} <= sized and "wave-8" not in sized


def trace(sizes=(1,), chunks=1, cached=0):
    return RequestTrace(sizes, "t", chunks, cached, 0)


@pytest.mark.parametrize(
    ("condition", "size", "traces", "steps", "came"),
    [
        ("alone", 1, [trace()], [(1, 300), (1, 1)], True),
        ("wave-4", 4, [trace((4,))], [(4, 1200), (4, 4)], True),
        ("wave-4", 4, [trace((2,))], [(2, 600), (2, 2)], False),  # the engine took two at a time
        ("edges-8", 8, [trace((7, 8))], [(7, 900), (8, 8)], True),
        ("staggered-4", 4, [trace((1, 2))], [(1, 300), (2, 301)], True),
        ("staggered-4", 4, [trace((1,))], [(1, 300), (1, 1)], False),  # one after the other
        ("ragged-4", 4, [trace((4,))], [(4, 900), (4, 4)], False),  # nobody left, nobody joined
        ("chunked-1", 1, [trace(chunks=5)], [(1, 64)], True),
        ("chunked-1", 1, [trace(chunks=1)], [(1, 300)], False),
        ("cached-1", 1, [trace(cached=256)], [(1, 44)], True),
        ("cached-1", 1, [trace(cached=0)], [(1, 300)], False),
    ],
)  # fmt: skip
def test_a_condition_came_about_only_where_the_steps_show_it(condition, size, traces, steps, came):
    decoded = Decoded({}, (), dict(enumerate(traces)), tuple(steps))
    assert came_about(condition, size, 0, decoded) is came


def test_a_lone_request_that_is_asked_for_is_planned_whatever_the_sizes():
    from detcheck.schedules import load

    wanted = Wanted(12, 8, 2, ("alone", "wave"), (8,))
    for made in (
        schedule({"0:aa": 20}, wanted, ROOMY),
        load.schedule({"0:aa": 20}, wanted, load.ServerLimits(64, None, None, 1.0)),
    ):
        assert {step.condition for step in made.steps} == {"alone", "wave-8"}


def test_sizes_that_leave_out_the_first_answer_of_a_server_say_so():
    from detcheck.schedules import load

    limits = load.ServerLimits(64, None, None, 1.0)
    made = load.schedule({"0:aa": 20}, Wanted(12, 8, 2, None, (8,)), limits)
    assert [n.what for n in made.not_tried] == ["cold"] and not any(s.condition == "cold" for s in made.steps)
    asked = load.schedule({"0:aa": 20}, Wanted(12, 8, 2, ("cold", "wave"), (8,)), limits)
    assert any(s.condition == "cold" for s in asked.steps) and not asked.not_tried
