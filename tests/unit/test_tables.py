"""Observations come back from parquet as they were, however a column is laid out, and a part that lacks one is no part."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from detcheck.records import Case, Condition, Observation
from detcheck.storage.tables import LATER, READ, column_values, observation_row, read_observations, schema, write_table

CASE, OTHER = (
    Case("completions", "m", "stock", "float32", "0:a"),
    Case("completions", "m", "stock", "float32", "0:a", 2),
)
PLAIN = Observation(CASE, Condition("alone", 1, 0), 0, 0, 0, "a", (1,))
FULL = Observation(
    OTHER,
    Condition("wave-8", None, 3, "c", 2, "chunk", "t"),
    1,
    7,
    5,
    "b",
    (1, 4, 8),
    2,
    0.25,
    "",
    (("error", float("inf")), ("drafted", 2.0)),
    (("ours mm", 3),),
    False,
    ((8, 300), (8, 8)),
    4,
    ((12, None), (20, 12)),
)
MISSING = Observation(CASE, Condition("batch-2", 2, 1, composition="é"), 0, 1, 0, None, (), missing="status 500")
MANY = {
    "one": [PLAIN],
    "no lists": [PLAIN, PLAIN],
    "all kinds": [PLAIN, FULL, MISSING, FULL, PLAIN],
    "no outcome": [MISSING, MISSING],
    "empty": [],
}


def stored(tmp_path, observations):
    (tmp_path / "observations").mkdir()
    file = tmp_path / "observations" / "00000.parquet"
    write_table(file, list(map(observation_row, observations)))
    return pyarrow.parquet.ParquetFile(file).read()


@pytest.mark.parametrize("observations", MANY.values(), ids=MANY)
def test_what_was_written_is_read(tmp_path, observations):
    assert repr(read_observations(stored(tmp_path, observations))) == repr(observations)


def test_equal_conditions_are_one_object(tmp_path):
    first, _, _, _, last = read_observations(stored(tmp_path, MANY["all kinds"]))
    assert first.condition is last.condition and first.case is last.case


@pytest.mark.parametrize("name", READ)
def test_a_part_without_a_column(tmp_path, name):
    """One that a later version added is passed over, and samples are numbered again; without another nothing can be known of the rows."""
    table = stored(tmp_path, MANY["all kinds"]).drop_columns([name])
    if name in (*LATER, "sample"):
        assert len(read_observations(table)) == 5
    else:
        with pytest.raises(KeyError):
            read_observations(table)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, 2, None], pa.int32()),
        pa.array([1, -2], pa.int64()),
        pa.array([0.5, -0.0, float("inf")]),
        pa.array([None, None], pa.float64()),
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        pa.array(["a", "b"]),
        pa.array([[1, 2], [], [3]], pa.list_(pa.int32())),
        pa.array([[1, None]], pa.list_(pa.int32())),
        pa.array([[1], None], pa.list_(pa.int32())),
        pa.array([[], []], pa.list_(pa.struct([("name", pa.string())]))),
        pa.array([[{"name": "x"}], []], pa.list_(pa.struct([("name", pa.string())]))),
        pa.array([True, None, False]),
        pa.array([], pa.string()),
        pa.array([[9], [1, 2], [], [3]], pa.list_(pa.int32())).slice(1, 2),
    ],
    ids=str,
)
def test_columns_are_what_pylist_gives(array):
    for chunks in ([array], [array, array], [array[:1], array[1:]]):
        column = pa.chunked_array(chunks)
        assert repr(column_values(column)) == repr(column.to_pylist())


def test_every_column_is_known():
    assert set(READ) == set(schema("observations").names)
