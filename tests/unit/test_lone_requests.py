"""How probable it is that lone requests are spared by a fault that has nothing to do with the load: against scipy, and by hand."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from scipy.stats import hypergeom

from detcheck.judge.server import CHANCE, agree_by_chance, too_few
from detcheck.schedules import load
from detcheck.schedules.wanted import Wanted


@pytest.mark.parametrize(
    ("lone", "others", "samples"), [(1, 1, 2), (2, 2, 100), (4, 9, 16), (12, 71, 100), (316, 40, 100_000)]
)
def test_it_is_what_a_hypergeometric_draw_says(lone, others, samples):
    assert agree_by_chance(lone, others, samples) == pytest.approx(hypergeom.pmf(0, samples, others, lone))


def test_where_all_others_differ_and_nothing_is_left_for_the_lone_ones_it_is_rare():
    assert agree_by_chance(2, 14, 16) == pytest.approx(2 / (16 * 15))
    assert agree_by_chance(2, 15, 16) == 0  # there are not that many


def test_as_many_are_advised_as_find_the_fault_in_nineteen_of_twenty_runs():
    said = too_few(2, 2, 100, 0.96, "wave-8")
    advised = int(re.search(r"--trials (\d+)", said)[1])
    assert (1 - 0.02) ** advised <= CHANCE < (1 - 0.02) ** (advised - 1)


def planned(samples):
    return load.schedule(
        {"0:aa": 20}, Wanted(samples, 32, 2, None, None, 0), load.ServerLimits(64, None, None, 1.0, 2)
    ).steps


@pytest.mark.parametrize("samples", [24, 100, 400])
def test_lone_requests_are_spread_over_the_run_with_one_at_each_end(samples):
    warm = [step.condition for step in planned(samples) if step.condition != "cold"]
    places = [place for place, name in enumerate(warm) if name == "alone"]
    assert places[0] == 0 and places[-1] == len(warm) - 1
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("conditions", [None, ("cold", "alone", "wave-4"), ("wave-4",), ("cold", "wave-4")])
def test_of_several_prompts_the_first_ones_lone_request_is_repeated_last_of_all(conditions):
    """Else nothing shows that the weights were swapped between two of them. `cold` cannot be repeated then."""
    wanted, limits = Wanted(24, 32, 2, conditions, None, 0), load.ServerLimits(64, None, None, 1.0, 2)
    steps = load.schedule({"0:aa": 20, "1:bb": 20, "2:cc": 9}, wanted, limits).steps
    again = "wave-4" if conditions and "alone" not in conditions else "alone"
    assert [(s.input, s.condition) for s in steps].count(("0:aa", again)) > 1
    assert (steps[-1].input, steps[-1].condition) == ("0:aa", again)
    assert [step.index for step in steps] == list(range(len(steps))) and sum(s.samples for s in steps) == 72
    inputs = [step.input for step in steps[:-1]]
    assert inputs == sorted(inputs)
    if again == "alone":  # as before, those that stay have one at each end of the prompt's other steps
        assert [s for s in steps[:-1] if s.input == "0:aa"][-1].condition == "alone"
    stops = load.schedule({"0:aa": 20, "1:bb": 20}, replace(wanted, fail_fast=True), limits).steps
    assert stops[-1].input == "1:bb"


@pytest.mark.parametrize("samples", [24, 100, 400])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 0.5])
def test_a_fault_that_lasts_for_a_while_is_hardly_ever_blamed_on_the_load(samples, share):
    """It strikes whatever is sent in a part of the run, wherever that lies."""
    steps, blamed, differ, rng = planned(samples), 0, 0, random.Random(1)
    for _ in range(500):
        begins = rng.random() * (1 - share) * len(steps)
        struck = [begins <= place < begins + share * len(steps) for place in range(len(steps))]
        lone = [hit for step, hit in zip(steps, struck, strict=True) if len(step.rows) == 1]
        others = sum(step.samples for step, hit in zip(steps, struck, strict=True) if hit and len(step.rows) > 1)
        differ += any(struck)
        blamed += bool(others) and not any(lone) and agree_by_chance(len(lone), others, samples) <= CHANCE
    assert blamed <= CHANCE * differ


@pytest.mark.parametrize("first", ["wave-2", "wave-8", "staggered-16", "ragged-16", "wave-64"])
def test_what_is_advised_can_be_asked_and_asks_both_as_often(first):
    said = too_few(12, 2, 100, 0.8, first)
    conditions, trials, samples = re.search(r"--conditions (\S+) --trials (\d+) -n (\d+)", said).groups()
    wanted = Wanted(int(samples), 32, int(trials), tuple(conditions.split(",")), None, 0)
    steps = load.schedule({"0:aa": 20}, wanted, load.ServerLimits(64, None, None, 1.0, 2)).steps
    asked = Counter(step.condition for step in steps)
    assert set(asked) == {"alone", first} and min(asked.values()) >= int(trials)
