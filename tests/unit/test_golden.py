"""The article's figures ("Defeating Nondeterminism in LLM Inference", Thinking Machines Lab, 2025-09), line by line.

1000 completions of 1000 tokens, 80 distinct, the most common 78 times, the first 102 tokens common to all; then 992 go on
"Queens, New York" and 8 "New York City".
"""

import json

import pyarrow
import pyarrow.parquet
import pytest

QUEENS, CITY = [" Queens", ",", " New", " York"], [" New", " York", " City", ","]
COUNTS = [
    78,
    8,
    *([12] * 63),
    *([11] * 11),
    *([9] * 3),
    10,
]  # of 80 completions: the mode, the one that says "New York City" ...


def distinct_completions():
    for n in range(80):
        fork = CITY if n == 1 else QUEENS
        tail = [f" w{i}" for i in range(1000 - 102 - len(fork))]
        if n > 1:
            tail[n * 5] = f" other{n}"  # leaves the mode somewhere behind
        yield [" Feynman", *(f" c{i}" for i in range(100)), " in", *fork, *tail]


def rows():
    completions = list(distinct_completions())
    for tokens, count in zip(completions, COUNTS, strict=True):
        assert len(tokens) == 1000
        yield from [tokens] * count


@pytest.fixture(params=["jsonl strings", "jsonl ids", "parquet ids", "jsonl text"])
def file(request, tmp_path):
    kind, how = request.param.split()
    vocabulary = {}
    table = []
    for words in rows():
        ids = [vocabulary.setdefault(w, len(vocabulary)) for w in words]
        table.append(
            {
                "strings": {"tokens": words},
                "ids": {"tokens": ids, "text": "".join(words)},
                "text": {"text": "".join(words)},
            }[how]
        )
    path = tmp_path / f"completions.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path, how


def test_the_articles_figures(file, detcheck):
    path, how = file
    assert sum(COUNTS) == 1000
    result = detcheck("judge", path, "--format", "json")
    assert result.code == 1, result.err
    (finding,) = json.loads(result.out)["findings"]
    assert finding["verdict"] == "divergent"  # no batch was seen
    assert (finding["samples"], finding["distinct"], finding["mode_count"]) == (1000, 80, 78)
    first = finding["forks"][0]
    assert [b["count"] for b in first["branches"]] == [992, 8]
    assert first["branches"][0]["text"].startswith("Queens, New York")
    assert first["branches"][1]["text"].startswith("New York City")
    if how == "text":
        assert finding["evidence"]["compared"] == "text"  # and indices count characters
        return
    assert (finding["common_prefix"], first["index"]) == (102, 102)
    assert finding["histogram"][0] == [102, 8]
    assert sum(count for _, count in finding["histogram"]) == 1000 - 78
    if how == "strings":
        assert [b["token"] for b in first["branches"]] == [" Queens", " New"]


def test_it_is_said_in_the_terminal(tmp_path, detcheck):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps({"tokens": words}) + "\n" for words in rows()))
    out = detcheck("judge", path).out
    assert "Total samples: 1000, Unique samples: 80" in out
    assert "the most common came 78 times; the first 102 tokens are common to all" in out
    assert "at 102: 992× Queens, New York" in out
    assert "at 102: 8× New York City" in out
