"""order on kernels whose tree we wrote, through the command, and on this machine's own sums."""

import dataclasses
import json
import re

import numpy as np
import pytest

from detcheck.kernels._cpu import build
from detcheck.op import every
from detcheck.summation import arithmetic
from detcheck.summation.describe import outline, spelled, words
from detcheck.summation.fold import fold
from detcheck.summation.tree import NotATreeError, Tree, reveal

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
    for fma, kind in ((arithmetic.fma32, np.float32), (arithmetic.fma64, np.float64)):
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
    from detcheck.probes.order.ops import known

    assert known() == lookup.names("kernels")


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
    assert finding["evidence"]["orders"][0]["conditions"][0].startswith("1 in the batch (threads ")
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
        "sum": "16 lanes strided, then added",
        "attention": "sequential",
    }.items():
        (order,) = found[op]["evidence"]["orders"]
        assert (found[op]["verdict"], found[op]["distinct"], order["sure"]) == ("identical", 1, True)
        assert order["words"].startswith(expected)
    ours = {op.name for op in every() if op.batch_invariant and op.order}
    assert set(found) == ours and result.code == 3
    for op in ours - {"matmul", "mean", "sum", "attention"}:  # each says why not
        assert all(order["why"] for order in found[op]["evidence"]["orders"]), op


def test_our_order_of_bfloat16_is_named_and_readded(detcheck):
    result = detcheck(
        "order", "--op", "matmul", "--dtype", "bfloat16", "--kernels", "batch-invariant", "--shape", "4096,1024",
        "--batch-sizes", "1,2,17", "--format", "json", "-q",
    )  # fmt: skip
    (finding,) = json.loads(result.out)["findings"]
    (order,) = finding["evidence"]["orders"]
    assert (result.code, finding["verdict"], order["sure"]) == (0, "identical", True)
    assert (
        order["words"]
        == {
            "pairs": "8 lanes of pairs (the second of a pair first) strided over blocks of 2048 (lanes added pairwise, halves first), then added in one addition",
            "tiles": "2 lanes strided over blocks of 32 (lanes added in one addition), then added in order",
        }[build.order()]
    )


def test_the_order_of_tiles_is_named_and_readded(detcheck, tmp_path, monkeypatch):
    """Of a kernel that emulates AMX's instructions, where this processor has none."""
    known = {level.name: level for level in build.levels()}
    if "avx512" not in known or not known["avx512"].needs <= build.processor_flags():
        pytest.skip("needs AVX-512 to emulate AMX by")
    emulated = dataclasses.replace(known["avx512"], flags=(*known["avx512"].flags, "-DTILES_EMULATED"), order="tiles")
    monkeypatch.setattr(build, "chosen", lambda: (emulated, ""))
    for cached in (build.library, build.function):
        cached.cache_clear()
        monkeypatch.setattr(build, cached.__name__, cached.__wrapped__)
    test_our_order_of_bfloat16_is_named_and_readded(detcheck)


def test_lanes_of_pairs_are_told_from_what_is_nearly_so():
    def lane(j, lanes, length, second_first=True):
        total, *rest = [k + t for k in range(2 * j, length, 2 * lanes) for t in ((1, 0) if second_first else (0, 1))]
        for k in rest:
            total = [total, k]
        return total

    made = [lane(j, 4, 48) for j in range(4)]
    assert words(fold(as_tree([[made[0], made[2]], [made[1], made[3]]], 48))).startswith(
        "4 lanes of pairs (the second of"
    )
    made[3] = lane(3, 4, 48, second_first=False)
    assert "lanes" not in words(fold(as_tree([[made[0], made[2]], [made[1], made[3]]], 48)))


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
    from detcheck.probes.order.options import Options
    from detcheck.spec import Kernels, Spec
    from detcheck.verdict import FailOn

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

    from detcheck.probes.order.counting import read
    from detcheck.probes.order.facts import Place
    from detcheck.probes.order.sums import make

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

    from detcheck.probes.order.options import Options
    from detcheck.probes.order.session import Order
    from detcheck.spec import Kernels, Spec
    from detcheck.verdict import FailOn

    for dtype, most in (("float32", 20), ("bfloat16", 40)):
        own = Options("order_kernels:blocks_of_matmul", "linear", (1024, 256), (torch.get_num_threads(),))
        probe = Order(Spec("order", own, None, Kernels.STOCK, dtype, "cpu", 0, 2, (1, 2), FailOn.ANY))
        for step in probe.subject.schedule.steps:
            ((seen,), (outcome,)) = probe.observe(step)
            assert json.loads(outcome.text)["sure"] and dict(seen.metrics)["calls"] <= most


def test_the_picture_has_a_box_a_line_and_marks_what_the_other_has_not():
    from xml.etree import ElementTree

    from detcheck.summation.describe import Entry
    from detcheck.summation.svg import picture

    first = (
        "order 1",
        [
            Entry(0, True, "64 summands"),
            Entry(1, False, "4 ×, in order"),
            Entry(2, True, "16"),
            Entry(1, True, "<b>&\u202e"),
        ],
    )
    second = "order 3", [Entry(0, True, "64 summands"), Entry(1, True, "2 ×, in order")]
    svg = picture([first, second])
    boxes = [g for g in ElementTree.fromstring(svg).iter("g") if g.find("rect") is not None]
    told = [(g.find("title").text, "stroke-dasharray" in g.find("rect").attrib) for g in boxes]
    assert told == [
        ("64 summands", False),
        ("4 ×, in order", True),
        ("16", True),
        ("<b>&\\u202e", True),
        ("64 summands", False),
        ("2 ×, in order", True),
    ]
    assert float(boxes[2].find("rect").attrib["x"]) > float(boxes[1].find("rect").attrib["x"])
    assert "order 1" in svg and "order 3" in svg
    assert picture([]) == "" and "dasharray" not in picture([first])


def test_an_outline_is_drawn_with_its_branches():
    from detcheck.summation.describe import Entry, drawn

    entries = [Entry(0, True, "a"), Entry(1, False, "b"), Entry(2, True, "c"), Entry(1, True, "d"), Entry(2, True, "e")]
    assert drawn(entries) == ["a", "├─ b", "│  └─ c", "└─ d", "   └─ e"]


def test_4096_summands_are_a_few_boxes_in_the_html_report(detcheck):
    result = detcheck(
        *("order", "--op", "torch.nn.functional:linear", "--shape", "4096,1024", "--batch-sizes", "1,4", "-q"),
        *("--threads", 1, "--format", "html"),
    )
    boxes = result.out.count("<li style=")
    assert result.out.count('<ol class="tree">') >= 1 and 1 <= boxes <= 64


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

    from detcheck.probes.order.counting import read
    from detcheck.probes.order.facts import Place, Proved
    from detcheck.probes.order.pairs import prove
    from detcheck.probes.order.sums import make

    sums = make("linear", torch.nn.functional.linear, (64, 32), 8, torch.float32)
    place = Place(tuple(range(8)), tuple(range(32)))
    tree, _ = read(sums, place, 0)
    assert prove(sums, place, tree) == Proved(64 * 63, 0)
    children = [list(c) for c in tree.nodes]
    wrong = Tree.of(64, {64 + k: [63 - c if c < 64 else c for c in kids] for k, kids in enumerate(children)}, tree.root)
    assert wrong.hash != tree.hash and prove(sums, place, wrong).unlike > 0


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


@pytest.mark.parametrize("name", ["by_border", "two_swapped_in_the_last_row"])
def test_no_output_is_left_out_where_rows_have_their_borders_elsewhere(name, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,3", shape="9,16", form="linear")
    assert (result.code, finding["verdict"], finding["distinct"]) == (1, "batch-variant", 2), finding["note"]
    assert all(order["sure"] for order in finding["evidence"]["orders"])


def test_every_output_has_one_place():
    from detcheck.probes.order.reveal import alike

    random = np.random.default_rng(0)
    results = [random.integers(2, size=(5, 7)).astype(float) for _ in range(2)]
    at = [(r, c) for place in alike(results) for r in place.rows for c in place.columns]
    assert sorted(at) == [(r, c) for r in range(5) for c in range(7)]
    for place in alike(results):
        assert len({(results[0][r, c], results[1][r, c]) for r in place.rows for c in place.columns}) == 1


def test_more_orders_than_are_read_are_told_apart(detcheck):
    shape = {"shape": "8,8", "form": "linear"}
    result, rows = asked(detcheck, "order_kernels:a_start_for_each_row", "--batch-sizes", "8", **shape)
    assert (result.code, rows["verdict"]) == (1, "batch-variant") and "not every order could be read" in rows["note"]
    result, columns = asked(
        detcheck, "order_kernels:a_start_for_each_column", "--batch-sizes", "1,2", "--trials", 1, **shape
    )
    assert (result.code, columns["verdict"], columns["distinct"]) == (3, "inconclusive", 1)
    assert "more than 6 orders within one call" in columns["note"]


@pytest.mark.parametrize("name", ["zeroes_its_argument", "sorts_its_argument"])
def test_an_op_that_writes_over_its_arguments_is_not_accused(name, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape="16")
    assert (result.code, finding["verdict"], finding["distinct"]) == (3, "inconclusive", 1)
    assert "it writes over its arguments" in finding["note"]


def test_a_call_in_fifty_that_adds_otherwise_is_run_variant_and_how_often(detcheck):
    result, finding = asked(
        detcheck, "order_kernels:every_fiftieth_call_backwards", "--batch-sizes", "1,2", shape="48,16", form="linear"
    )
    assert (result.code, finding["verdict"]) == (1, "run-variant")
    left, calls = map(int, re.search(r"(\d+) of (\d+) left the most common result", finding["note"]).groups())
    assert 0 < left < calls / 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a_tuple", "returned a tuple of 1"),
        ("nothing", "returned nothing"),
        ("sparse", "nested, sparse or without data"),
        ("without_data", "nested, sparse or without data"),
        ("stops_oddly", "raised GeneratorExit: odd"),
    ],
)
def test_what_is_no_result_is_refused_in_words(name, says, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape="8")
    assert (result.code, finding["verdict"]) == (4, "failed")
    assert says in finding["note"] and "Traceback" not in result.err


def test_a_result_that_lies_the_other_way_round_is_no_variance(detcheck):
    _, finding = asked(detcheck, "order_kernels:transposed", "--batch-sizes", "1,2", shape="16,8", form="linear")
    assert finding["verdict"] == "inconclusive" and "returned float32[8, 2]; [2, 8] sums" in finding["note"]


@pytest.mark.parametrize("name", ["prints", "with_grad"])
def test_an_op_may_print_and_return_what_has_a_gradient(name, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape="8")
    assert (result.code, finding["verdict"]) == (0, "identical")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_result_wider_than_its_summands_is_checked_as_it_is(dtype, detcheck):
    result, finding = asked(detcheck, "order_kernels:wider_out", "--batch-sizes", "1,2", "--dtype", dtype, shape="32")
    assert (result.code, finding["evidence"]["orders"][0]["words"]) == (0, "sequential"), finding["note"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("negated", "multiplied by -1"), ("a_third", "divided by 3"), ("multiplied", "multiplied by 1.3")],
)
def test_a_sum_that_is_scaled_afterwards_is_read(name, says, detcheck):
    result, finding = asked(detcheck, f"order_kernels:{name}", "--batch-sizes", "1,2", shape="16")
    assert result.code == 0 and finding["evidence"]["orders"][0]["adds_in"] == f"float32, then {says}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("length", [3, 4, 5, 7, 8])
def test_data_for_few_summands_tells_a_wrong_order(length, dtype):
    from detcheck.probes.order.confirm import SCREEN, TOLD, elsewhere, same

    tree = Tree.of(length, {length + k: [length + k - 1 if k else 0, k + 1] for k in range(length - 1)}, 2 * length - 2)
    values, factors = arithmetic.cancelling(SCREEN, length, dtype, 0)
    assert (values != 0).all() and np.isfinite(values).all()
    way = arithmetic.Adds("float64" if dtype == "float64" else "float32")
    right = arithmetic.readd(tree, values, factors, way, dtype)
    reversed_, *_ = elsewhere(length)
    assert (1 - same(arithmetic.readd(tree, values[:, reversed_], factors, way, dtype), right).mean()) > TOLD


def test_a_mean_that_float16_has_no_room_for_says_so(detcheck):
    result, finding = asked(detcheck, "torch:mean", "--batch-sizes", "1,2", "--dtype", "float16", shape="100")
    assert (result.code, finding["verdict"]) == (3, "inconclusive")
    assert "there is no room for the masks" in finding["note"] and "no plain sum" not in finding["note"]


def test_reasons_that_differ_are_no_evidence_of_variance():
    from detcheck.probes.order.facts import Revealed
    from detcheck.probes.order.judge import unlike
    from detcheck.reason import Reason

    a = Revealed(8, bits="1", why=Reason("unsteady"))
    b = Revealed(8, bits="1", why=Reason("writes"))
    c, d = Revealed(8, bits="1", sure=True), Revealed(8, bits="2", sure=True)
    assert not unlike([a, b, c, Revealed(8)]) and unlike([c, d]) and unlike([a, d])


def unfolded(f, at=0):
    """The order that a fold stands for, as nested lists of summands."""
    if f.kind == "leaf":
        return at
    if f.kind == "halves":
        cut = (f.size + f.apart) // 2
        run = list(range(at, at + f.size))

        def halves(run):
            cut = (len(run) + f.apart) // 2
            return run[0] if len(run) == 1 else [halves(run[:cut]), halves(run[cut:])]

        return halves(run) if cut else run
    if f.kind == "lanes":

        def lane(j):
            taken = range(at + j * f.terms, at + f.size, f.stride)
            total, *rest = [k + term for k in taken for term in reversed(range(f.terms))]
            for k in rest:
                total = [total, k]
            return total

        def over(t):
            return lane(t) if isinstance(t, int) else [over(c) for c in t]

        return over(unfolded(f.parts[0][1]))
    if f.kind == "mix":
        first, *rest = [unfolded(part, at + offset) for offset, part in f.parts]
        if f.terms > 1:
            return [first, *rest]
        for part in rest:
            first = [first, part]
        return first
    offset, body = f.parts[-1]
    if f.kind == "pairs":
        ratio = {True: 2, False: 0.5}[f.apart >= f.stride]
        steps = [int(f.stride * ratio**k) for k in range(f.count.bit_length() - 1)]

        def pairs(k, at):
            return unfolded(body, at) if k < 0 else [pairs(k - 1, at), pairs(k - 1, at + steps[k])]

        return pairs(len(steps) - 1, at + offset)
    bodies = [at + offset + k * f.stride for k in range(f.count)]
    if f.kind == "at once":
        return [unfolded(body, b) for b in bodies]
    total = unfolded(f.start, at + f.parts[0][0]) if f.start else unfolded(body, bodies.pop(0))
    for b in bodies:
        total = [total, *(unfolded(body, b + t * f.apart) for t in range(f.terms))]
    return total


def as_tree(nested, length):
    children = {}

    def number(node):
        if isinstance(node, int):
            return node
        kids = [number(c) for c in node]
        children[length + len(children)] = kids
        return length + len(children) - 1

    return Tree.of(length, children, number(nested))


def a_random_tree(length, arity, seed):
    """Of neighbours mostly, and with repeats, so that all kinds of folds come up."""
    random = np.random.default_rng(seed)
    if length == 1:
        return 0
    kind = random.integers(6)
    if kind < 3 and length % 2 == 0:
        half = a_random_tree(length // 2, arity, seed + 1)
        step = (1, 2, length // 2)[kind]

        def moved(node, by, apart):
            return node * apart + by if isinstance(node, int) else [moved(c, by, apart) for c in node]

        return [moved(half, 0, 2), moved(half, 1, 2)] if step < 3 else [half, moved(half, length // 2, 1)]
    left = [int(k) for k in (random.permutation(length) if kind == 5 else np.arange(length))]
    while len(left) > 1:
        take = min(len(left), int(random.integers(2, arity + 1)))
        at = int(random.integers(len(left) - take + 1)) if kind > 3 else 0
        left[at : at + take] = [left[at : at + take]]
    return left[0]


@pytest.mark.parametrize("seed", range(12))
def test_a_fold_holds_the_order_to_the_last_summand(seed):
    for length in (3, 5, 6, 7, 8, 12, 24, 32, 60):
        tree = as_tree(a_random_tree(length, 2 + seed % 3, seed), length)
        assert as_tree(unfolded(fold(tree)), length) == tree


def test_halves_that_are_not_equal_are_two_orders_in_words():
    def halved(run, longer):
        cut = (len(run) + longer) // 2
        return run[0] if len(run) == 1 else [halved(run[:cut], longer), halved(run[cut:], longer)]

    short, long = (fold(as_tree(halved(list(range(13)), longer), 13)) for longer in (0, 1))
    assert words(short) != words(long) and outline(short) != outline(long) and spelled(short) != spelled(long)


@pytest.mark.parametrize(
    ("nested", "said"),
    [
        ([[[0, 2], 1], 3], "2 in one addition, 2 apart, then 2 more 2 apart in order from 1 on"),
        (
            [[[[0, 1], 2], 6], [[3, 4], 5]],
            "2 in one addition, then 2 more 4 apart in order from 2 on, then from 3 on (3 in order)",
        ),
        (
            [[[4, 2], 0], [1, 3]],
            "summand 2, then 2 more 4 apart in order from 4 back, then from 1 on (2 in one addition, 2 apart)",
        ),
    ],
)
def test_words_say_where(nested, said):
    length = 1 + max(int(k) for k in re.findall(r"\d+", str(nested)))
    found = words(fold(as_tree(nested, length)))
    assert found == said


def test_an_irregular_order_is_said_in_short():
    random = np.random.default_rng(1)
    for length in (64, 4096):
        left = [int(k) for k in range(length)]
        while len(left) > 1:
            left.append([left.pop(int(random.integers(len(left)))) for _ in range(2)])
        found = words(fold(as_tree(left[0], length)))
        assert re.fullmatch(r"irregular: \d+ unlike subtrees; it adds up parts of [\d, ]+( \.\.\.)? summands", found), (
            found
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["rmsnorm", "softmax", "log_softmax", "silu_mul", "gelu_mul"])
def test_why_an_order_cannot_be_read_is_seen_on_the_op_itself(name, dtype):
    from detcheck import lookup
    from detcheck.probes.order.reasons import sentence
    from detcheck.probes.order.unreadable import why

    op = lookup.find("kernels", name).OP
    for function in (op.stock, op.batch_invariant):
        for rows in (1, 3):
            assert sentence(why(name, function, rows, dtype, 0)) == f"{op.order.text} (seen here: {op.order.seen})"


def test_a_reason_that_does_not_hold_is_not_given_as_one():
    import torch

    from detcheck.probes.order.reasons import sentence
    from detcheck.probes.order.unreadable import why

    def centred(x, w):  # a layer norm: it knows signs
        return (x - x.mean(-1, keepdim=True)) * w

    def signed(x):  # its denominator is not of exponentials
        return x / x.sum(-1, keepdim=True)

    def mixes(gate, up):
        return gate.cumsum(-1) * up

    for name, op in (("rmsnorm", centred), ("softmax", signed), ("silu_mul", mixes), ("gelu_mul", lambda a, b: b * 1)):
        assert "but this was not seen here" in sentence(why(name, op, 2, "float32", 0))
    with pytest.raises(Exception, match="raised RuntimeError"):
        why("softmax", lambda x: torch.zeros(2) @ torch.zeros(3), 2, "float32", 0)


def test_what_was_observed_is_kept_where_a_batch_is_too_large_for_the_machine(detcheck, monkeypatch):
    from detcheck.probes.order import session as order

    def make(form, function, shape, rows, *more):
        if rows > 2:
            raise RuntimeError("can't allocate memory")
        return made(form, function, shape, rows, *more)

    made = order.make
    monkeypatch.setattr(order, "make", make)
    result, finding = asked(detcheck, "torch:sum", "--batch-sizes", "2,4", shape="64")
    assert (result.code, finding["verdict"]) == (3, "inconclusive") and "Traceback" not in result.err
    assert "cannot be given 4 rows here" in finding["note"] and finding["evidence"]["orders"][0]["sure"]
    assert detcheck("order", "--op", "torch:sum", "--batch-sizes", f"1,{2**31}").code == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--op", "torch:sum", "--kernels", "batch-invariant"), "is for bundled ops"),
        (("--op", "torch:celu"), "say with --form how it is called"),
        (("--op", "torch:sum", "--form", "round"), "there is no such one"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(more, says, detcheck):
    result = detcheck("order", *more)
    assert result.code == 2 and says in result.err


def test_a_run_that_is_interrupted_is_judged_and_goes_on(detcheck):
    import order_kernels

    order_kernels.CALLS[0] = 0
    path = "order_kernels:interrupted_once"
    asked = ("order", "--op", path, "--form", "linear", "--shape", "48,64", "--batch-sizes", "1,2,3", "--threads", 1)
    stopped = detcheck(*asked)
    assert stopped.code == 130 and "Traceback" not in stopped.err
    run = re.findall(r"run: (\S+)", stopped.out)[0]
    assert detcheck("report", run).code == 130
    result = detcheck(*asked, "--resume", run, "--format", "json")
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"], finding["missing"]) == (0, "identical", 0), finding["note"]
