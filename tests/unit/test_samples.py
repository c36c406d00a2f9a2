"""What reports say of compared samples: advice that fits what was found, and no line with nothing in it."""

import pytest

from detcheck import advice, samples
from detcheck.finding import Finding
from detcheck.records import Case
from detcheck.verdict import Verdict


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


def test_no_reasons_to_finish_are_said_where_none_are_known():
    case = Case("completions", "m", "stock", "float32", "0:aa")
    known = {"compared": "bits", "unit": "token"}
    same = Finding(case, Verdict.IDENTICAL, "", samples=4, distinct=1, distinct_bits=2, mode_count=4, evidence=known)
    assert same.latent and not any("reasons to finish" in line for line in samples.figures(same))
