"""`order --form squares`: nothing cancels, so orders are read by which two of three summands meet first."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcheck.probes.order.triples import grown, masks, tight
from detcheck.summation.tree import NotATreeError, Tree


def asked(detcheck, name, *more, shape="64"):
    command = "order", "--op", f"order_kernels:{name}", "--form", "squares", "--shape", shape, "--threads", 1
    result = detcheck(*command, "--batch-sizes", "1,4", "--format", "json", "-q", *more)
    return result, json.loads(result.out)["findings"][0]


@pytest.mark.parametrize(
    ("name", "words", "adds_in"),
    [
        ("squares_in_order", "sequential", "float32"),
        ("squares_in_lanes", "8 lanes strided, then added pairwise, halves first", "float32"),
        ("squares_in_blocks", "blocks of 4, added in order", "float32"),
        ("squares_fused", "sequential", "float32 with fused multiply-add"),
        ("mean_of_squares", "pairwise, neighbours first", "float32, then divided by n"),
        ("squares_negated", "sequential", "float32, then multiplied by -1"),
    ],
)
def test_an_order_we_wrote_is_found(name, words, adds_in, detcheck):
    result, finding = asked(detcheck, name)
    assert (result.code, finding["verdict"], finding["distinct"]) == (0, "identical", 1), finding["note"]
    (order,) = finding["evidence"]["orders"]
    assert (order["words"], order["adds_in"]) == (words, adds_in)
    assert order["sure"] and order["checked"] == {"columns": 1024, "equal": 1024}


def test_an_order_that_follows_the_batch_is_two(detcheck):
    result, finding = asked(detcheck, "squares_split_by_batch")
    assert (result.code, finding["verdict"], finding["distinct"]) == (1, "batch-variant", 2), finding["note"]
    assert {o["words"].split(" in")[0] for o in finding["evidence"]["orders"]} == {"sequential", "split"}


@pytest.mark.parametrize("shape", ["1", "2", "3", "37", "509"])
def test_torchs_own(shape, detcheck, tmp_path, monkeypatch):
    (tmp_path / "norms.py").write_text("def squares(x):\n    return x.pow(2).sum(-1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = "order", "--op", "norms:squares", "--form", "squares", "--shape", shape, "--batch-sizes", "1,16"
    result = detcheck(*command, "--format", "json", "-q")
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]


def test_half_precision_is_read_where_the_result_has_room(detcheck):
    result, finding = asked(detcheck, "squares_of_bfloat16", "--dtype", "bfloat16")
    assert (result.code, finding["evidence"]["orders"][0]["words"]) == (0, "sequential"), finding["note"]
    result, finding = asked(detcheck, "squares_in_lanes", "--dtype", "bfloat16")
    assert (result.code, finding["verdict"]) in ((0, "identical"), (3, "inconclusive"))
    assert all(o["words"].startswith("8 lanes") for o in finding["evidence"]["orders"] if o["sure"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("norm", "it does not square"),
        ("sizes", "it does not square"),
        ("largest_square", "it does not add squares up"),
        ("squares_in_float64", "3 pairs meet before the third joins them"),
        ("squares_three_at_once", "is no order of additions"),
        ("squares_kahan", "3 pairs meet before the third joins them"),
        ("squares_sorted", ""),
    ],
)
def test_what_is_no_plain_sum_of_squares_is_never_sure(name, says, detcheck):
    result, finding = asked(
        detcheck, name, shape="24" if name == "squares_three_at_once" else "64"
    )  # of it each triple is asked
    assert (result.code, finding["verdict"]) == (3, "inconclusive"), finding
    assert says in finding["note"] and not any(o["sure"] for o in finding["evidence"]["orders"])


def test_random_order_is_run_variant(detcheck):
    result, finding = asked(detcheck, "squares_at_random")
    assert (result.code, finding["verdict"]) == (1, "run-variant"), finding["note"]


def random_tree(length, seed):
    random = np.random.default_rng(seed)
    roots, children = list(range(length)), {}
    while len(roots) > 1:
        a, b = (roots.pop(int(random.integers(len(roots)))) for _ in range(2))
        roots.append(length + len(children))
        children[roots[-1]] = [a, b]
    return Tree.of(length, children, roots[0])


def oracle(tree):
    return lambda i, j, k: (tree.meets(j, k) < tree.meets(i, j)) & (tree.meets(j, k) < tree.meets(i, k))


@given(st.integers(1, 40), st.integers(0, 1000))
def test_any_tree_is_grown_from_its_triples(length, seed):
    tree = random_tree(length, seed)
    assert grown(length, oracle(tree), seed) == tree
    assert oracle(tree)(*tight(tree)).all()
    if length > 2:
        other = random_tree(length, seed + 1)
        assert other == tree or not oracle(tree)(*tight(other)).all()


def test_a_long_chain_takes_few_questions():
    """Sequential, where asking about all pairs would take a million."""
    length, asked = 1024, [0]
    tree = Tree.of(length, {length + k: [length + k - 1 if k else 0, k + 1] for k in range(length - 1)}, 2 * length - 2)

    def first(*leaves):
        asked[0] += len(leaves[0])
        return oracle(tree)(*leaves)

    assert grown(length, first) == tree
    assert asked[0] < 6 * length * 10


def test_nodes_of_three_contradict():
    tree = Tree(4, ((0, 1, 2), (3, 4)))
    with pytest.raises(NotATreeError) as raised:
        grown(4, oracle(tree))
    assert (raised.value.reason.code, raised.value.reason.values["pairs"]) == ("odd_three", 0)


@pytest.mark.parametrize(("bits", "kind"), [(24, np.float32), (53, np.float64), (11, np.float16)])
def test_a_small_square_is_lost_in_a_large_one_and_two_are_not(bits, kind):
    large, small = (kind(value) for value in masks(bits))
    big, u = large * large, small * small
    assert big + u == big and big + (u + u) > big and u + u == 2 * u
