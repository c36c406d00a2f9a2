"""order on what a hostile review found: each of these once had a wrong answer."""

import json
import sys

import pytest
import warm
from test_order import as_tree, asked

from detcheck.summation.describe import words
from detcheck.summation.fold import fold

LINEAR = {"form": "linear"}


@pytest.mark.parametrize("seed", [1])
def test_squares_in_rows_beyond_the_data_are_not_taken_for_the_others(seed, detcheck):
    more = "--batch-sizes", "1,1100", "--seed", seed, "--trials", 1
    result, finding = asked(
        detcheck, "order_kernels:squares_of_the_tail_otherwise", *more, shape="1024", form="squares"
    )
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]


def test_columns_beyond_the_data_are_not_taken_for_the_others_in_half_precision(detcheck):
    more = "--batch-sizes", "1,2", "--dtype", "bfloat16", "--seed", 17
    result, finding = asked(detcheck, "order_kernels:columns_of_the_tail_otherwise", *more, shape="1024,1100", **LINEAR)
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]


@pytest.mark.parametrize("seed", [3])
@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("scales_its_x", "64,32", "it writes over its arguments"),
        ("scaled_by_the_largest_weight", "32,4", "no order is shown"),
    ],
)
def test_what_is_deterministic_is_not_called_run_variant(name, shape, says, seed, detcheck):
    more = "--batch-sizes", "1,4", "--seed", seed
    result, finding = asked(detcheck, f"order_kernels:{name}", *more, shape=shape, **LINEAR)
    assert (result.code, finding["verdict"]) == (3, "inconclusive"), finding["note"]
    assert says in finding["note"]


def test_more_orders_than_are_told_apart_are_no_variance(detcheck):
    more = "--batch-sizes", "1,2", "--trials", 1
    result, finding = asked(detcheck, "order_kernels:a_start_for_each_matrix", *more, shape="70,70,1", form="bmm")
    assert result.code in (3, 4) and finding["verdict"] in ("inconclusive", "failed"), finding["note"]
    assert "adds in 70 orders within one call" in finding["note"]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("bfloat16", "64"), ("bfloat16", "1024"), ("float16", "64"), ("float32", "64"), ("float32", "1024")],
)
def test_a_start_that_follows_the_data_is_never_sure(dtype, shape, detcheck):
    more = "--batch-sizes", "16,64", "--dtype", dtype
    result, finding = asked(detcheck, "order_kernels:first_three_by_size", *more, shape=shape)
    assert (result.code, finding["verdict"]) == (3, "inconclusive"), finding["note"]
    assert not any(order["sure"] for order in finding["evidence"]["orders"])


def test_another_order_in_the_second_revealing_is_run_variant(detcheck):
    import order_kernels

    order_kernels.BUFFERS.clear()
    result, finding = asked(
        detcheck, "order_kernels:by_where_the_weight_lies", "--batch-sizes", "1", shape="16,32", **LINEAR
    )
    assert (result.code, finding["verdict"]) == (1, "run-variant"), finding["note"]


@pytest.mark.parametrize("name", ["halved_product", "a_third_of_a_product"])
def test_a_scaled_product_is_proved(name, detcheck):
    result, finding = asked(
        detcheck, f"order_kernels:{name}", "--batch-sizes", "1,4", "--prove", shape="64,32", **LINEAR
    )
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
    assert finding["evidence"]["orders"][0]["proved"] == {"pairs": 64 * 63, "unlike": 0}
    result, finding = asked(
        detcheck,
        f"order_kernels:{name}",
        "--batch-sizes",
        "1,4",
        "--prove",
        "--dtype",
        "bfloat16",
        shape="64,32",
        **LINEAR,
    )
    if name == "halved_product":  # counts are rounded as they are, and halved exactly
        assert (result.code, finding["evidence"]["orders"][0]["proved"]["unlike"]) == (0, 0), finding["note"]
    else:
        assert (result.code, finding["verdict"]) == (3, "inconclusive") and "--prove was asked for" in finding["note"]


def all_trees(leaves):
    """Every binary tree over these summands."""
    if len(leaves) == 1:
        yield leaves[0]
        return
    first, *others = leaves
    for mask in range(2 ** len(others) - 1):
        left = [first, *(leaf for n, leaf in enumerate(others) if mask >> n & 1)]
        right = [leaf for leaf in others if leaf not in left]
        for a in all_trees(left):
            for b in all_trees(right):
                yield [a, b]


@pytest.mark.parametrize("length", [4, 5, 6])
def test_no_two_orders_have_the_same_words(length):
    said = {}
    for nested in all_trees(list(range(length))):
        text = words(fold(as_tree(nested, length)))
        if not text.startswith("irregular"):
            assert said.setdefault(text, nested) == nested, text


def test_words_of_seven_that_were_once_the_same():
    one = [[[0, 2], 1], [[3, 4], [5, 6]]]
    other = [[[0, [[3, 4], [5, 6]]], 2], 1]
    assert words(fold(as_tree(one, 7))) != words(fold(as_tree(other, 7)))


def test_parts_that_are_joined_in_pairs_are_as_far_apart_as_is_said():
    parts = [[[16 + j, 8 + j], j] for j in range(8)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [[parts[n], parts[n + half]] for n in range(half)]
    assert words(fold(as_tree(parts[0], 24))).startswith("8 parts of 3, 1 apart (")


@pytest.mark.parametrize(
    ("name", "says"), [("fails_with_an_odd_name", "no file \\udc80 here"), ("fails_without_words", "raised Speechless")]
)
def test_an_op_that_fails_in_odd_words_is_reported(name, says, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape="16")
    assert (result.code, finding["verdict"]) == (4, "failed") and says in finding["note"]
    assert "Traceback" not in result.err


def test_a_result_whose_signs_are_still_to_be_turned_is_read(detcheck):
    result, finding = asked(detcheck, "order_kernels:negative_view", "--batch-sizes", "1,2", shape="16")
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]


def test_a_seed_below_zero_is_refused(detcheck):
    result = detcheck("order", "--op", "torch:sum", "--seed", "-1")
    assert result.code == 2 and "--seed must be at least 0" in result.err


def test_a_module_that_prints_leaves_stdout_to_the_report(tmp_path):
    (tmp_path / "loud.py").write_text("print('hello')\ndef total(x):\n    return x.sum(-1)\n")
    command = ["order", "--op", "loud:total", "--form", "sum", "--shape", "16", "--batch-sizes", "1,2", "-q"]
    start = [sys.executable, "-m", "detcheck", *command, "--format", "json"]
    ran = warm.run(start, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert json.loads(ran.stdout)["verdict"] == "identical" and "hello" in ran.stderr


def test_a_vector_is_strided_too_where_strides_are_asked_for():
    import torch

    from detcheck.probes.order.sums import make

    seen = []
    made = make("vector", lambda x: seen.append(x.stride()) or x.sum(), (16,), 1, torch.float32, "strides")
    made.result()
    assert seen[0][0] > 1
