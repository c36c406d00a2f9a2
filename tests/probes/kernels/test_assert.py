"""`assert_batch_invariant` passes the innocent and says of the guilty what, where and how far."""

import re
import subprocess
import sys

import guilty
import pytest
import torch

import detcheck

SIZES = (1, 2, 8, 33)


def check(name, rows=20, sizes=SIZES, dtype=torch.float32):
    detcheck.assert_batch_invariant(getattr(guilty, name), guilty.make_inputs(rows, dtype, 0), sizes=sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_innocent_pass(dtype):
    check("innocent", rows=4, dtype=dtype)
    check("in_place", rows=1, dtype=dtype)
    check("zeros", rows=1, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "split_follows_batch",
            r"not batch-invariant: in rows-2 \(copies of the row\) 2 of 2 rows differ .* alone: 0, 1\.",
        ),
        ("split_follows_threads", r"in threads-\d+-rows-1 \(another number of threads\)"),
        ("padding_leaks", r"in mixed-2 \(other rows beside it\)"),
        ("nan_leaks", r"in hostile-2 \(rows of NaN and infinity beside it\).* nan"),
        (
            "third_slot",
            r"in rows-8 \(copies of the row\) 1 of 8 rows differ .*: 3\. Row 3: .* elements differ.* ulp apart",
        ),
        ("unaligned", r"in unaligned-1 \(inputs one element off in memory\)"),
        ("strided", r"in strided-\d \(room between the rows"),
        ("noise", r"noise is not deterministic: row \d+ of the same batch .*trial \d.* ulp apart"),
    ],
)
def test_the_guilty_are_named(name, says):
    with pytest.raises(AssertionError) as raised:
        check(name)
    assert re.search(says, str(raised.value)), raised.value


def test_one_row_of_257():
    with pytest.raises(
        AssertionError,
        match=r"in rows-257 .* 1 of 257 rows differ .*: 200\. Row 200: 1 of 300 elements differ, the first is 7: .* up to 1 ulp",
    ):
        check("one_row_of_257", rows=1, sizes=(1, 257))


@pytest.mark.parametrize("sizes", [(1, 4), (64, 3, 16), (1, 257)])
def test_layouts_are_tried_whatever_the_sizes(sizes):
    with pytest.raises(AssertionError, match=f"in strided-{min(set(sizes) - {1})} "):
        check("room_between_rows", rows=2, sizes=sizes)


def test_arguments_without_a_batch_and_threads_stay_as_they_were():
    weight, before = torch.randn(300), torch.get_num_threads()
    detcheck.assert_batch_invariant(
        lambda w, x: guilty.innocent(x) * w,
        (weight, *guilty.make_inputs(3, torch.float32, 0)),
        batched=(1,),
        sizes=SIZES,
    )
    with pytest.raises(RuntimeError, match="no kernel image"):
        check("raises")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ((7,), {}, r"inputs\[0\] must be a tensor"),
        ((torch.ones(0, 3),), {}, "at least one row"),
        ((torch.ones(2, 3), torch.ones(3, 3)), {"batched": (0, 1)}, "same number of rows"),
        ((torch.ones(2, 3),), {"batched": ()}, "same number of rows; got none"),
        ((torch.ones(2, 3),), {"batched": (-1,)}, r"places of inputs, counted from 0; got -1 in batched=\(-1,\)"),
        ((torch.ones(2, 3),), {"batched": (True,)}, "counted from 0; got True"),
        (torch.ones(1, 3), {}, r"tuple of a call's arguments; got one tensor \(1, 3\)\. Write \(tensor,\)"),
        ((torch.ones(2, 3),), {"sizes": (0,)}, "sizes from 1 up"),
        (
            (torch.ones(2, 3),),
            {"sizes": (1,)},
            r"sizes=\(1,\) has no batch of several rows, so nothing would be compared",
        ),
        ((torch.ones(2, 3),), {"sizes": (n for n in (1, 1))}, "no batch of several rows"),
        ((torch.ones(2, 3),), {"trials": 1}, "at least 2 trials"),
    ],
)
def test_what_cannot_be_asked(inputs, options, says):
    with pytest.raises(ValueError, match=says):
        detcheck.assert_batch_invariant(lambda *x: x[0], inputs, **options)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("two_tensors", "two_tensors must return one tensor"),
        ("nothing", r"nothing must return something to compare in each row; it returned shape \(1, 0\)"),
        ("nothing_in_a_batch", r"something to compare in each row; it returned shape \(8, 0\)"),
        (
            "square",
            r"rows of one length and dtype .* alone its length is 1 \(float32\), in a batch of 2 it is 2 ",
        ),
        ("half_in_a_batch", r"alone its length is 300 \(float32\), in a batch of 8 it is 300 \(float16\)"),
    ],
)
def test_what_a_function_must_return(name, says):
    with pytest.raises(ValueError, match=says):
        check(name)


def test_sizes_and_places_may_come_from_a_generator():
    with pytest.raises(AssertionError, match="not batch-invariant"):
        check("split_follows_batch", sizes=(size for size in SIZES))
    with pytest.raises(AssertionError, match="not batch-invariant"):
        detcheck.assert_batch_invariant(
            guilty.split_follows_batch,
            guilty.make_inputs(20, torch.float32, 0),
            batched=(n for n in (0,)),
            sizes=(1, 8),
        )


def test_it_is_lazy():
    code = "import sys, detcheck; detcheck.assert_batch_invariant; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_results_in_one_buffer_are_no_less_compared():
    """As of a captured graph: each call writes into the same memory."""
    made = torch.zeros(8, 300)

    def in_one_buffer(x):
        out = made[: len(x)]
        return out.copy_(guilty.innocent(x) * (1 + 2**-20 * (len(x) > 1)))

    with pytest.raises(AssertionError, match="not batch-invariant: in rows-8"):
        detcheck.assert_batch_invariant(in_one_buffer, guilty.make_inputs(1, torch.float32, 0), sizes=(1, 8))
