"""What reports say of compared samples: advice that fits what was found, and no line with nothing in it."""

import pytest

from detcheck import advice, samples
from detcheck.finding import Finding
from detcheck.formats.html import of_numbers, tiles
from detcheck.records import Case
from detcheck.text import article, percent
from detcheck.verdict import Verdict


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [
        (1, ".3g", "100%"),
        (0, ".3g", "0%"),
        (0.5, ".3g", "50%"),
        (2499 / 2500, ".3g", ">99.9%"),
        (0.999, ".3g", "99.9%"),
        (1 - 2**-53, ".3g", ">99.9%"),
        (1e-9, ".3g", "1e-07%"),
        (1 / 5000, ".1f", "<0.1%"),
        (4999 / 5000, ".1f", ">99.9%"),
        (0, ".2f", "0.00%"),
        (1, ".2f", "100.00%"),
        (1 - 1e-5, ".2f", ">99.99%"),
        (1e-5, ".2f", "<0.01%"),
        (0.999, ".0f", ">99%"),
        (0.004, ".0f", "<1%"),
    ],
)
def test_rounding_makes_no_share_all_or_none(share, digits, said):
    assert percent(share, digits) == said
    assert of_numbers([said])


@pytest.mark.parametrize(
    ("varies", "uncovered", "said"),
    [
        (["padding"], {}, advice.PADDING),
        (["chunk", "padding"], {}, f"{advice.PADDING} {advice.CHUNK}"),
        (["batch", "slot"], {}, advice.OURS_EVERYWHERE),
        (["batch"], {"aten::dot": 3}, advice.OURS_DIFFER),
    ],
)
def test_the_advice_on_ours_names_what_is_named(varies, uncovered, said):
    """It speaks of ops without a kernel of ours only where there are some."""
    case = Case("completions", "m", "batch-invariant", "float32", "0:aa")
    coverage = {"overridden": {"aten::mm": 9}, "uncovered": uncovered}
    finding = Finding(case, Verdict.BATCH_VARIANT, "", evidence={"varies_with": varies, "coverage": coverage})
    assert advice.advice(finding) == said


def test_a_name_has_its_article():
    names = ("int", "uint8 array", "OrderedDict", "'assistant'", "BertModel", "")
    assert [article(name) for name in names] == [
        *("an int", "a uint8 array", "an OrderedDict", "an 'assistant'", "a BertModel", "a "),
    ]


def test_one_other_sample_of_many_is_seen_in_the_tile():
    case = Case("judge", "m", "stock", "float32", "0:aa")
    found = Finding(case, Verdict.DIVERGENT, "", 2500, 2, mode_count=2499, evidence={"outcomes": [], "unit": "token"})
    assert ("are the most common one", ">99.9%") in tiles(found)


def test_no_reasons_to_finish_are_said_where_none_are_known():
    case = Case("completions", "m", "stock", "float32", "0:aa")
    known = {"compared": "bits", "unit": "token"}
    same = Finding(case, Verdict.IDENTICAL, "", samples=4, distinct=1, distinct_bits=2, mode_count=4, evidence=known)
    assert same.latent and not any("reasons to finish" in line for line in samples.figures(same))
