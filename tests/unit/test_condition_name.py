"""Names of conditions: what is made is read back, and a foreign name is a kind of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detcheck.condition_name import ConditionKind, ConditionName, kind_of, named

SIZED = [kind for kind in ConditionKind if kind is not ConditionKind.THREADS]


@given(st.sampled_from(SIZED), st.none() | st.integers(0, 10**6))
def test_a_name_with_a_size_comes_back(kind, size):
    assert ConditionName.parse(named(kind, size)) == ConditionName(kind, size)


@given(st.sampled_from([ConditionKind.ROWS, ConditionKind.THREADS]), st.integers(1, 999), st.integers(1, 999))
def test_a_name_with_threads_comes_back(kind, size, threads):
    assert ConditionName.parse(named(kind, size, threads)) == ConditionName(kind, size, threads)


@given(st.integers(1, 999), st.integers(1, 999))
def test_a_name_with_a_chunk_comes_back(size, tokens):
    made = ConditionName(ConditionKind.CHUNKED, size, tokens=tokens)
    assert str(made) == f"chunked-{size}-tokens-{tokens}" and ConditionName.parse(str(made)) == made


@pytest.mark.parametrize(
    ("text", "kind"),
    [("alone", "alone"), ("wave-8", "wave"), ("threads-2-rows-8", "threads"), ("rows-8-threads-2", "rows"),
     ("wave-", "wave-"), ("wave-x", "wave-x"), ("Batch 8", "Batch 8"), ("", ""), ("a-b-c", "a-b-c")],
)  # fmt: skip
def test_the_kind_of_a_name(text, kind):
    assert kind_of(text) == kind
    assert str(ConditionName.parse(text)) == text
