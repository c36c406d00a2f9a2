"""`adapters-N`: its control has the same rows, it comes on top of the samples, and what makes no sense is refused."""

import pytest

from detcheck.errors import UsageError
from detcheck.schedules import adapters, arrivals, batches
from detcheck.schedules.wanted import Wanted
from detcheck.text import visible

LENGTHS = {"0:aa": 40, "1:bb": 7}


def planned(conditions=None, sizes=None, others=True, control="batch", impossible=lambda plan: "", samples=24):
    wanted = Wanted(samples, 8, 2, conditions, sizes, others=others)
    adapters.check(wanted)
    first = batches.schedule(LENGTHS, adapters.rest(wanted), 1000, 80)
    return first, adapters.beside(first, LENGTHS, wanted, control, impossible)


@pytest.mark.parametrize("control", ["batch", "wave"])
def test_the_control_has_the_same_rows_and_both_are_repeated(control):
    before, after = planned(control=control)
    assert after.steps[: len(before.steps)] == before.steps
    assert [step.index for step in after.steps] == list(range(len(after.steps)))
    added = after.steps[len(before.steps) :]
    for name, length in LENGTHS.items():
        for size in adapters.SIZES:
            own = [s for s in added if s.input == name and len(s.rows) == size]
            assert [s.condition for s in own] == [f"{control}-{size}"] * 2 + [f"adapters-{size}"] * 2
            assert len({s.rows for s in own}) == 1 and {length, 0} == set(own[0].rows)
            assert own[0].rows.count(0) == size // 4
            drawn = batches if control == "batch" else arrivals
            assert len({drawn.neighbours(s.condition) for s in own}) == 1  # the same tokens
            assert {bool(s.traffic) for s in own} == {control == "wave"}


@pytest.mark.parametrize(
    ("conditions", "sizes", "found"),
    [
        (None, None, {4, 16}),
        (None, (1, 3), {3}),
        (("alone", "adapters"), None, {4, 16}),
        (("adapters-5",), None, {5}),
        (("adapters-5", "adapters"), (2,), {2, 5}),
    ],
)
def test_sizes(conditions, sizes, found):
    _, after = planned(conditions, sizes)
    assert {len(s.rows) for s in after.steps if s.condition.startswith("adapters")} == found


def test_without_other_adapters_nothing_is_added():
    before, after = planned(others=False)
    assert before is after


def test_what_cannot_be_had_is_named_or_refused():
    before, after = planned(impossible=lambda plan: "it is too large" if plan.size > 4 else "")
    assert ("adapters-16", "it is too large") in {(one.what, one.reason) for one in after.not_tried}
    assert "batch-4" not in {one.what for one in after.not_tried}
    assert {s.condition for s in after.steps} - {s.condition for s in before.steps} <= {"adapters-4", "batch-4"}
    with pytest.raises(UsageError, match="cannot have adapters-16: it is too large"):
        planned(("adapters-16",), impossible=lambda plan: "it is too large")


@pytest.mark.parametrize(
    ("conditions", "sizes", "others", "said"),
    [
        (("adapters",), None, False, "add --other-adapter FOLDER"),
        (("alone",), None, True, "add adapters to it"),
        (("adapters-1",), None, True, "a size of 2 or more"),
        (None, (1,), True, "a size of 2 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(conditions, sizes, others, said):
    with pytest.raises(UsageError) as error:
        planned(conditions, sizes, others)
    assert said in visible(str(error.value))
