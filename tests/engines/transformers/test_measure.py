"""The likeliest token and the next: the same by either way, whatever the logits are."""

import pytest
import torch

from detcheck.engines.transformers.measure import by_numpy, by_torch, two_largest

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1.0, 3.0, 3.0, 2.0], (1, 2)),
        ([0.0, -0.0, -1.0], (0, 1)),
        ([-0.0, 0.0, -1.0], (0, 1)),
        ([1.0, NAN, 2.0], (1, 2)),
        ([1.0, NAN, NAN, INF], (1, 2)),
        ([INF, 1.0, INF], (0, 2)),
        ([-INF, -INF, -5.0], (2, 0)),
        ([-INF, -INF, -INF], (0, 0)),
        ([2.0, 3.0], (1, 0)),
    ],
    ids=str,
)
def test_of_equal_ones_the_first_comes_first(logits, expected):
    values = torch.tensor(logits)
    before = values.clone()
    for way in (by_numpy, by_torch, two_largest):
        assert tuple(map(int, way(values))) == expected
        assert values.view(torch.int32).equal(before.view(torch.int32))


def test_a_whole_vocabulary():
    drawn = torch.randn(200, 32_001, generator=torch.Generator().manual_seed(0))
    values = drawn.to(torch.bfloat16).float()  # with ties
    assert [by_numpy(row) for row in values] == [tuple(map(int, by_torch(row))) for row in values]
