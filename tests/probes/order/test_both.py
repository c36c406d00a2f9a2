"""order --kernels both: stock's orders beside ours. Both are planted here, so that no answer depends on this machine's stock."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from detcheck import runner
from detcheck.formats import json as report_json
from detcheck.kernels import sum as of_sum
from detcheck.probes.order import pairs
from detcheck.report import render

SCHEMA = jsonschema.Draft202012Validator(
    json.loads(Path(report_json.__file__).with_name("report.schema.json").read_text())
)
BOTH = ("order", "--kernels", "both", "--op", "sum", "--shape", "64", "--batch-sizes", "1,2,4", "--threads", 1)


@pytest.fixture
def planted(monkeypatch):
    """(stock, ours), as names of `order_kernels` -> they are the two implementations of `sum`."""
    import order_kernels

    def put(stock, ours):
        found = dataclasses.replace(
            of_sum.OP, stock=getattr(order_kernels, stock), batch_invariant=getattr(order_kernels, ours)
        )
        monkeypatch.setattr(of_sum, "OP", found)

    return put


def asked(detcheck, *more):
    result = detcheck(*BOTH, "--format", "json", "-q", *more)
    report = json.loads(result.out)
    SCHEMA.validate(report)
    ours, stock = sorted(report["findings"], key=lambda f: f["case"]["kernels"])
    assert (ours["case"]["kernels"], stock["case"]["kernels"]) == ("batch-invariant", "stock")
    return result.code, ours, stock


def test_stock_that_follows_the_batch_stands_beside_ours_which_does_not(detcheck, planted):
    planted("split_by_batch", "pairwise")
    code, ours, stock = asked(detcheck)
    assert (code, ours["verdict"], stock["verdict"]) == (0, "identical", "batch-variant")
    assert (ours["role"], stock["role"]) == ("gates", "control")
    evidence = ours["evidence"]
    assert evidence["stock_orders"] == stock["evidence"]["orders"] and len(evidence["orders"]) == 1
    assert [(call["rows"], call["threads"]) for call in evidence["side_by_side"]] == [(1, 1), (2, 1), (4, 1)]
    assert {tuple(call["ours"]) for call in evidence["side_by_side"]} == {(evidence["orders"][0]["tree"],)}
    of_stock = [tree for call in evidence["side_by_side"] for tree in call["stock"]]
    assert set(of_stock) == {order["tree"] for order in stock["evidence"]["orders"]} and len(set(of_stock)) > 1
    assert "side_by_side" not in stock["evidence"]


def test_the_verdict_is_about_ours_whatever_stock_does(detcheck, planted):
    planted("pairwise", "split_by_batch")
    code, ours, stock = asked(detcheck)
    assert (code, ours["verdict"], stock["verdict"]) == (1, "batch-variant", "identical")


def test_stock_that_keeps_one_order_puts_ours_in_no_doubt(detcheck, planted):
    """Unlike in `completions`: each order was added again to the bit, on data that tells a wrong one."""
    planted("sequential", "pairwise")
    code, ours, stock = asked(detcheck)
    assert (code, ours["verdict"], stock["verdict"]) == (0, "identical", "identical")
    assert ours["note"].startswith("one order of addition in all 3 conditions")


@pytest.mark.parametrize(
    ("stock", "ours", "says"),
    [
        ("split_by_batch", "pairwise", " orders in the same calls: its bits follow the batch"),
        ("sequential", "pairwise", "stock adds in one order, another one in the same calls"),
        ("pairwise", "pairwise", "stock adds in the same order"),
    ],
)
def test_every_format_shows_both(detcheck, planted, stock, ours, says):
    planted(stock, ours)
    result = detcheck(*BOTH, "-q")
    assert result.code == 0 and says in result.out
    lines = result.out.splitlines()
    (heading,) = [n for n, line in enumerate(lines) if "stock's order" in line]
    rows = [line.split() for line in lines[heading + 1 : heading + 4]]
    assert [row[0] for row in rows] == ["1", "2", "4"] and len({row[2] for row in rows}) == 1
    assert (len({row[1] for row in rows}) == 1) is (stock != "split_by_batch")
    assert (rows[0][1] == rows[0][2]) is (stock == ours)
    assert "stock order 1 " in result.out and "ours order 1 " in result.out
    (path,) = (line.removeprefix("run: ") for line in lines if line.startswith("run: "))
    run = runner.load(path)  # judged again, with nothing planted
    assert says in render(run, "md") and says in render(run, "html")
    assert ">stock order 1 · " in render(run, "html") and ">ours order 1 · " in render(run, "html")


def test_a_proof_of_stocks_order_is_none_of_ours(detcheck, monkeypatch):
    """Both add in one order here, and every pair of each is asked about."""
    import order_kernels

    from detcheck.kernels import matmul

    planted = dataclasses.replace(
        matmul.OP, stock=order_kernels.sequential_of_matmul, batch_invariant=lambda x, w: order_kernels.sequential_of_matmul(x, w)
    )  # fmt: skip
    monkeypatch.setattr(matmul, "OP", planted)
    proved, prove = [], pairs.prove
    monkeypatch.setattr(pairs, "prove", lambda *given: proved.append(1) or prove(*given))
    result = detcheck(
        "order", "--kernels", "both", "--op", "matmul", "--shape", "16,8", "--batch-sizes", "1,2", "--prove", "-q",
        "--threads", 1,
    )  # fmt: skip
    assert result.code == 0 and len(proved) == 4  # two batch sizes of each


def test_ops_that_cannot_be_read_are_inconclusive_on_both(detcheck):
    result = detcheck("order", "--kernels", "both", "--op", "softmax", "--batch-sizes", "1,2", "-q")
    assert result.code == 3 and "no order of stock's was read" in result.out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--op", "torch:sum"), "there is none of ours for torch:sum"),
        (("--op", "control"), "control has no batch-invariant implementation"),
        (("--op", "sum", "--kernels", "engine"), "stock, batch-invariant or both"),
    ],
)
def test_what_has_no_two_sides_is_refused_in_words(detcheck, more, says):
    result = detcheck("order", "--kernels", "both", *more)
    assert result.code == 2 and says in " ".join(result.err.split())
