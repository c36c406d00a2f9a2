"""order on kernels whose tree we wrote, through the command, and on this machine's own sums."""

import json
import re

import numpy as np
import pytest

from detcheck import adders
from detcheck.tree_fold import fold
from detcheck.tree_words import outline, spelled, words
from detcheck.trees import NotATreeError, Tree, reveal

WORDS = {
    "sequential": "sequential",
    "backwards": "reversed: sequential from the last to the first",
    "pairwise": "pairwise, neighbours first",
    "halved": "pairwise, halves first",
    "lanes_8": "8 lanes strided, then added in order",
    "lanes_8_halved": "8 lanes strided, then added pairwise, halves first",
    "lanes_4_backwards": "4 lanes strided, then added in reverse order",
    "blocks_4": "blocks of 4 (in order)",
    "blocks_backwards": "blocks of 4",
    "split_4": "split in 4 parts of 16 (each in order), added in order",
    "split_2": "split in 2 parts of 32 (each in order), added in one addition",
    "lanes_over_blocks": "8 lanes strided over blocks of 32 (lanes added pairwise, halves first), then added in one addition",
    "like_numpy": "4 lanes strided over blocks of 16 (lanes added pairwise, neighbours first), then added pairwise, neighbours first",
    "scaled_inside": "sequential",
    "in_float64": "sequential",
}


def asked(detcheck, op, *more, shape="64", form="sum"):
    result = detcheck(
        "order", "--op", op, "--form", form, "--shape", shape, "--format", "json", "-q", "--threads", 1, *more
    )
    return result, json.loads(result.out)["findings"][0]


@pytest.mark.parametrize("name", WORDS)
def test_an_order_we_wrote_is_found(name, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,4")
    assert (result.code, finding["verdict"], finding["distinct"]) == (0, "identical", 1), finding["note"]
    (order,) = finding["evidence"]["orders"]
    assert order["sure"] and order["checked"] == {"columns": 1024, "equal": 1024}
    if name.startswith("blocks"):
        assert order["words"].startswith("blocks of 4, added in")
        assert order["words"].endswith("reverse order" if "backwards" in name else "in order")
    else:
        assert order["words"] == WORDS[name]
    assert ("float64" in order["adds_in"]) == (name == "in_float64")


def test_orders_we_wrote_have_hashes_of_their_own(detcheck):
    found = {
        asked(detcheck, f"order_kernels:{n}", "--batch-sizes", "1,4")[1]["evidence"]["orders"][0]["tree"]
        for n in ("sequential", "backwards", "pairwise", "split_4", "scaled_inside")
    }
    assert len(found) == 4  # scaled_inside is sequential too


def test_split_by_the_batch_is_two_classes(detcheck):
    result, finding = asked(detcheck, "order_kernels:split_by_batch", "--batch-sizes", "1,3,4,8")
    assert (result.code, finding["verdict"], finding["distinct"]) == (1, "batch-variant", 2)
    first, second = finding["evidence"]["orders"]
    assert first["words"] == "sequential" and second["words"].startswith("split in 4 parts of 16")
    assert [c.split()[0] for c in first["conditions"]] == ["1", "3"]


def test_nodes_of_three(detcheck):
    result, finding = asked(detcheck, "order_kernels:three_at_once", "--batch-sizes", "2,4", shape="17")
    assert result.code == 0, finding["note"]
    (order,) = finding["evidence"]["orders"]
    assert order["words"] == "2 at a time added to the sum in one node of 3, in order"


@pytest.mark.parametrize("name", ["fused", "unfused"])
def test_what_is_fused_is_told(name, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,4", shape="64,32", form="linear")
    assert result.code == 0, finding["note"]
    (order,) = finding["evidence"]["orders"]
    assert order["words"] == "sequential" and ("fused" in order["adds_in"]) == (name == "fused")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kahan", "re-adding does not give its bits"),
        ("largest", "it is no plain sum"),
        ("hashed", "it is no plain sum"),
        ("flushed", "it is no plain sum"),
        ("by_size", "seem to be added at once"),
    ],
)
def test_what_is_no_plain_sum_is_never_sure(name, says, detcheck):
    shape = "96" if name == "by_size" else "64"
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape=shape)
    assert (result.code, finding["verdict"]) == (3, "inconclusive"), finding["note"]
    assert says in finding["note"]
    assert not any(order["sure"] for order in finding["evidence"]["orders"])


def test_data_that_cancels_tells_a_sorted_sum_from_one_at_once(detcheck):
    _, finding = asked(detcheck, "order_kernels:by_size", "--batch-sizes", "1,2", shape="48")
    assert finding["verdict"] == "inconclusive" and "re-adding does not give its bits" in finding["note"]


def test_an_order_that_changes_is_run_variant_and_how_often(detcheck):
    result, finding = asked(detcheck, "order_kernels:shuffled", "--batch-sizes", "2,4", shape="24")
    assert (result.code, finding["verdict"]) == (1, "run-variant")
    assert re.search(r"\d+ of \d+ left the most common result", finding["note"])


def test_skipped_zeros_change_nothing_where_none_is(detcheck):
    result, finding = asked(detcheck, "order_kernels:skips_zeros", "--batch-sizes", "1,2", shape="16")
    assert result.code == 0 and finding["evidence"]["orders"][0]["sure"], finding["note"]


def test_an_op_that_raises_failed(detcheck):
    result, finding = asked(detcheck, "order_kernels:raises", "--batch-sizes", "1,2")
    assert (result.code, finding["verdict"]) == (4, "failed")
    assert "no such kernel" in finding["note"]


@pytest.mark.parametrize("length", [1, 2, 3, 61])
def test_short_and_prime_lengths(length, detcheck):
    result, finding = asked(detcheck, "order_kernels:sequential", "--batch-sizes", "1,4", shape=str(length))
    assert result.code == 0, finding["note"]
    expected = {1: "one summand: nothing is added", 2: "one addition"}.get(length, "sequential")
    assert finding["evidence"]["orders"][0]["words"] == expected


@pytest.mark.parametrize(
    ("op", "form", "shape", "dtype"),
    [
        ("numpy:sum", "vector", "256", "float32"),
        ("torch:sum", "sum", "256", "float32"),
        ("torch:mean", "sum", "256", "float32"),
        ("torch:mv", "mv", "256,128", "float32"),
        ("torch:mm", "mm", "256,128", "float32"),
        ("torch.nn.functional:linear", "linear", "256,128", "float32"),
        ("torch.nn.functional:linear", "linear", "256,128", "bfloat16"),
        ("torch.nn.functional:linear", "linear", "1024,128", "bfloat16"),
    ],
)
def test_this_machines_sums_are_read_and_added_again(op, form, shape, dtype, detcheck):
    _result, finding = asked(detcheck, op, "--batch-sizes", "1,4", "--dtype", dtype, shape=shape, form=form)
    assert finding["verdict"] in ("identical", "batch-variant", "inconclusive")
    assert all(order["sure"] and order["checked"]["equal"] == 1024 for order in finding["evidence"]["orders"]), finding


@pytest.mark.parametrize(
    ("op", "dtype"), [("matmul", "float32"), ("matmul", "bfloat16"), ("mean", "float32"), ("mean", "bfloat16")]
)
def test_ours_adds_in_one_order(op, dtype, detcheck):
    shape = "1100,64" if op == "matmul" else "130"
    form = "linear" if op == "matmul" else "sum"
    result, finding = asked(
        detcheck,
        op,
        "--kernels",
        "batch-invariant",
        "--dtype",
        dtype,
        "--batch-sizes",
        "1,2,4,17",
        shape=shape,
        form=form,
    )
    assert (result.code, finding["distinct"]) == (0, 1), finding["note"]


def test_the_terminal_shows_the_tree_and_report_judges_again(detcheck):
    result = detcheck(
        "order", "--op", "order_kernels:split_by_batch", "--form", "sum", "--shape", 64, "--batch-sizes", "1,8", "-q"
    )
    assert result.code == 1 and "4 ×, in order, +16 each" in result.out
    run = result.out.split("run: ")[1].strip()
    for name in ("json", "md", "html", "junit", "terminal"):
        assert detcheck("report", run, "--format", name).code == 1


def test_answers_that_contradict_each_other_are_refused():
    with pytest.raises(NotATreeError):
        reveal(8, lambda i, j, most: np.full(len(i), 5))


@pytest.mark.parametrize("arity", [2, 3, 5])
def test_random_trees_are_revealed(arity):
    random = np.random.default_rng(arity)
    for length in (1, 2, 3, 17, 64):
        left, children = list(range(length)), {}
        while len(left) > 1:
            take = min(len(left), int(random.integers(2, arity + 1)))
            node = [left.pop(int(random.integers(len(left)))) for _ in range(take)]
            children[length + len(children)] = node
            left.append(length + len(children) - 1)
        tree = Tree.of(length, children, left[0])
        for room in (0, 100):
            found = reveal(length, lambda i, j, most, tree=tree: tree.meets(i, j), seed=length, room=room)
            assert found == tree and found.hash == tree.hash
        assert words(fold(tree)) and outline(fold(tree)) and spelled(fold(tree))


def test_fused_multiply_add_is_rounded_once():
    from fractions import Fraction

    random = np.random.default_rng(0)
    for fma, kind in ((adders.fma32, np.float32), (adders.fma64, np.float64)):
        a, b, c = (
            (random.standard_normal(500) * np.exp2(random.integers(-20, 20, 500))).astype(kind) for _ in range(3)
        )
        c[:200] = -(a[:200] * b[:200])
        for x, y, z, r in zip(a, b, c, fma(a, b, c), strict=True):
            exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
            near = [
                abs(Fraction(float(n)) - exact)
                for n in (np.nextafter(r, kind(-np.inf)), r, np.nextafter(r, kind(np.inf)))
            ]
            assert near[1] == min(near)


def test_every_bundled_op_is_read_or_says_why_not():
    from detcheck import lookup
    from detcheck.probes.order import BUNDLED, UNREADABLE

    assert sorted({*BUNDLED, *UNREADABLE}) == lookup.names("kernels") and not set(BUNDLED) & set(UNREADABLE)


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("rmsnorm", "a sum of squares behind a square root"),
        ("softmax", "its denominator is a sum of exponentials"),
        ("log_softmax", "the logarithm of a sum of exponentials"),
        ("silu_mul", "it adds nothing up"),
        ("gelu_mul", "it adds nothing up"),
    ],
)
def test_what_cannot_be_read_says_why(op, says, detcheck):
    result = detcheck("order", "--op", op, "--batch-sizes", "1,2", "--format", "json", "-q")
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (3, "inconclusive") and says in finding["note"]
    assert not any(order["sure"] for order in finding["evidence"]["orders"])
    assert detcheck("order", "--op", op, "--shape", "64").code == 2


def test_all_of_ours_add_in_one_order_or_say_why_not(detcheck):
    result = detcheck(
        "order", "--op", "all", "--kernels", "batch-invariant", "--batch-sizes", "1,2,17", "--format", "json", "-q"
    )
    found = {f["case"]["subject"]: f for f in json.loads(result.out)["findings"]}
    for op, expected in {
        "matmul": "8 lanes strided, then added pairwise, halves first",
        "mean": "16 lanes strided, then added",
        "attention": "sequential",
    }.items():
        (order,) = found[op]["evidence"]["orders"]
        assert (found[op]["verdict"], found[op]["distinct"], order["sure"]) == ("identical", 1, True)
        assert order["words"].startswith(expected)
    assert len(found) == 8 and result.code == 3


def test_columns_that_add_otherwise_in_every_batch_are_no_fault_of_the_batch(detcheck):
    result, finding = asked(detcheck, "order_kernels:by_column", "--batch-sizes", "1,4", shape="32,16", form="linear")
    assert (result.code, finding["verdict"], finding["distinct"]) == (0, "identical", 1), finding["note"]
    assert {order["words"] for order in finding["evidence"]["orders"]} == {"sequential", WORDS["backwards"]}


def test_rows_that_add_otherwise_are(detcheck):
    result, finding = asked(detcheck, "order_kernels:by_row", "--batch-sizes", "1,4", shape="32,16", form="linear")
    assert (result.code, finding["verdict"], finding["distinct"]) == (1, "batch-variant", 2), finding["note"]


def test_resume_notices_another_source(tmp_path, monkeypatch):
    from detcheck import runner
    from detcheck.errors import UsageError
    from detcheck.probes.order import Options
    from detcheck.records import FailOn, Kernels, Spec

    monkeypatch.chdir(tmp_path)
    text = "def op(x): return x.sum(1) * 2\n"
    (tmp_path / "theirs_added.py").write_text(text)
    own = Options("theirs_added:op", "sum", (8,), (1,))
    ran = runner.run(Spec("order", own, None, Kernels.STOCK, None, "cpu", 0, 2, (1, 2), FailOn.ANY), tmp_path)
    (tmp_path / "theirs_added.py").write_text(text.replace("2", "4"))
    with pytest.raises(UsageError, match="digest of module"):
        runner.resume(ran.path)


@pytest.mark.parametrize("function", ["blocks_of_matmul", "halved_of_matmul"])
def test_a_wrong_guess_at_an_order_costs_calls_and_nothing_else(function):
    import order_kernels
    import torch

    from detcheck.probes._reading import read
    from detcheck.probes._sums import Place, make

    length = 512
    sums = make("linear", getattr(order_kernels, function), (length, 128), 1, torch.bfloat16)
    place = Place((0,), tuple(range(128)))
    truth, how = read(sums, place, 0)
    wrong = Tree.of(
        length, {length + k: [length + k - 1 if k else 0, k + 1] for k in range(length - 1)}, 2 * length - 2
    )
    assert how == "rest" and truth != wrong
    before = sums.calls
    assert read(sums, place, 1, truth)[0] == truth
    guided = sums.calls - before
    assert read(sums, place, 1, wrong)[0] == truth
    assert guided <= sums.calls - before - guided


def test_calls_are_few():
    import torch

    from detcheck.probes.order import Options, Order
    from detcheck.records import FailOn, Kernels, Spec

    for dtype, most in (("float32", 20), ("bfloat16", 40)):
        own = Options("order_kernels:blocks_of_matmul", "linear", (1024, 256), (torch.get_num_threads(),))
        probe = Order(Spec("order", own, None, Kernels.STOCK, dtype, "cpu", 0, 2, (1, 2), FailOn.ANY))
        for step in probe.subject.schedule.steps:
            ((seen,), (outcome,)) = probe.observe(step)
            assert json.loads(outcome.text)["sure"] and dict(seen.metrics)["calls"] <= most


def order_of(*outline, sure=True):
    return {"sure": sure, "tree": "abc", "outline": list(outline), "conditions": ["1 in the batch (rows 0)"]}


def test_the_picture_has_a_box_a_line_and_marks_what_the_other_has_not():
    from xml.etree import ElementTree

    from detcheck.report._tree_svg import picture

    first = order_of("64 summands", "├─ +0: 4 ×, in order", "│  └─ 16 summands", "└─ +60: <b>&\u202e")
    second = order_of("64 summands", "└─ +0: 2 ×, in order")
    svg = picture([first, order_of("no", sure=False), second])
    boxes = [g for g in ElementTree.fromstring(svg).iter("g") if g.find("rect") is not None]
    told = [(g.find("title").text, "stroke-dasharray" in g.find("rect").attrib) for g in boxes]
    assert told == [
        ("64 summands", False),
        ("+0: 4 ×, in order", True),
        ("16 summands", True),
        ("+60: <b>&\\u202e", True),
        ("64 summands", False),
        ("+0: 2 ×, in order", True),
    ]
    assert float(boxes[2].find("rect").attrib["x"]) > float(boxes[1].find("rect").attrib["x"])
    assert "order 3" in svg and "order 2" not in svg
    assert picture([order_of(sure=False)]) == "" and "dasharray" not in picture([first])


def test_4096_summands_are_a_few_boxes_in_the_html_report(detcheck):
    result = detcheck(
        *("order", "--op", "torch.nn.functional:linear", "--shape", "4096,1024", "--batch-sizes", "1,4", "-q"),
        *("--threads", 1, "--format", "html"),
    )
    assert result.out.count("<svg") == 1 and 1 <= result.out.count("<rect") <= 64


@pytest.mark.parametrize(
    ("name", "verdict", "distinct"), [("bmm_by_matrix", "identical", 1), ("bmm_by_batch", "batch-variant", 2)]
)
def test_matrices_of_a_bmm_may_differ_and_batches_may_not(name, verdict, distinct, detcheck):
    _, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,4", shape="2,32,16", form="bmm")
    assert (finding["verdict"], finding["distinct"]) == (verdict, distinct), finding["note"]
    assert {order["words"] for order in finding["evidence"]["orders"]} == {"sequential", WORDS["backwards"]}


@pytest.mark.parametrize("layout", [None, "strides", "alignment"])
def test_another_layout_is_asked_about(layout, detcheck):
    more = ("--layout", layout) if layout else ()
    result, finding = asked(
        detcheck, "order_kernels:adds_otherwise_in_strides", "--batch-sizes", "2,4", *more, shape="32"
    )
    (order,) = finding["evidence"]["orders"]
    assert result.code == 0 and order["words"] == (WORDS["backwards"] if layout else "sequential"), finding["note"]
    assert ("other" in order["conditions"][0]) == bool(layout)


def test_a_layout_that_there_is_not_is_refused(detcheck):
    assert detcheck("order", "--layout", "diagonal").code == 2


def test_every_pair_is_asked_about_where_that_is_wanted(detcheck):
    more = ("--batch-sizes", "1,4,64", "--prove")
    result, finding = asked(detcheck, "torch.nn.functional:linear", *more, shape="300,128", form="linear")
    assert result.code == 1, finding["note"]
    proved = [order["proved"] for order in finding["evidence"]["orders"]]
    assert len(proved) > 1 and all(each == {"pairs": 300 * 299, "unlike": 0} for each in proved)
    _, ours = asked(
        detcheck, "matmul", *more, "--kernels", "batch-invariant", "--dtype", "bf16", shape="300,128", form="linear"
    )
    assert [order["proved"]["unlike"] for order in ours["evidence"]["orders"]] == [0]


def test_a_wrong_order_does_not_pass_the_proof():
    import torch

    from detcheck.probes import _prove, _sums
    from detcheck.probes._reading import read

    sums = _sums.make("linear", torch.nn.functional.linear, (64, 32), 8, torch.float32)
    place = _sums.Place(tuple(range(8)), tuple(range(32)))
    tree, _ = read(sums, place, 0)
    assert _prove.prove(sums, place, tree) == {"pairs": 64 * 63, "unlike": 0}
    children = [list(c) for c in tree.nodes]
    wrong = Tree.of(64, {64 + k: [63 - c if c < 64 else c for c in kids] for k, kids in enumerate(children)}, tree.root)
    assert wrong.hash != tree.hash and _prove.prove(sums, place, wrong)["unlike"] > 0


@pytest.mark.parametrize(
    ("op", "more"), [("torch:sum", ("--form", "sum")), ("all", ()), ("matmul", ("--dtype", "float16"))]
)
def test_what_cannot_be_proved_is_refused(op, more, detcheck):
    result = detcheck("order", "--op", op, "--prove", "-q", *more)
    assert result.code == 2 and "--prove" in result.err


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_hardware_that_flushes_small_numbers_is_read_the_same_or_not_at_all(dtype, detcheck):
    import torch

    trees = []
    for flush in (False, True):
        try:
            torch.set_flush_denormal(flush)
            _, finding = asked(detcheck, "torch:sum", "--batch-sizes", "1,2", "--dtype", dtype, shape="96")
        finally:
            torch.set_flush_denormal(False)
        trees.append({order["tree"] for order in finding["evidence"]["orders"] if order["sure"]})
    assert trees[0] and trees[1] in (trees[0], set())
