"""How probable it is that lone requests are spared by a fault that has nothing to do with the load: against scipy, and by hand."""

import pytest
from scipy.stats import hypergeom

from detcheck.judge.server import CHANCE, agree_by_chance, too_few


@pytest.mark.parametrize(
    ("lone", "others", "samples"), [(1, 1, 2), (2, 2, 100), (4, 9, 16), (12, 71, 100), (316, 40, 100_000)]
)
def test_it_is_what_a_hypergeometric_draw_says(lone, others, samples):
    assert agree_by_chance(lone, others, samples) == pytest.approx(hypergeom.pmf(0, samples, others, lone))


def test_where_all_others_differ_and_nothing_is_left_for_the_lone_ones_it_is_rare():
    assert agree_by_chance(2, 14, 16) == pytest.approx(2 / (16 * 15))
    assert agree_by_chance(2, 15, 16) == 0  # there are not that many


def test_as_many_are_advised_as_find_the_fault_in_nineteen_of_twenty_runs():
    advised = int(too_few(2, 2, 100, 0.96).split(" -n ")[1].rstrip(")"))
    assert (1 - 0.02) ** advised <= CHANCE < (1 - 0.02) ** (advised - 1)
