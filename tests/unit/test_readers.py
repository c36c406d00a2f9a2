"""Files that somebody else wrote: what is accepted, and what is refused in words."""

import json
import pickle

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.storage.collected import Collected
from detcheck.storage.input import StoredAnswer
from detcheck.verdict import Verdict


def judged(tmp_path, rows, **options):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return runner.judge_file(path, **options).findings


def test_all_equal_without_batch_sizes_is_no_pass(tmp_path):
    (finding,) = judged(tmp_path, [{"tokens": [1, 2]}] * 5)
    assert finding.verdict is Verdict.INCONCLUSIVE and "--allow-unseen-batch" in finding.note
    (finding,) = judged(tmp_path, [{"tokens": [1, 2]}] * 5, allow_unseen_batch=True)
    assert finding.verdict is Verdict.IDENTICAL and "could not be seen" in finding.note


def test_requests_with_equal_digits_and_names_are_not_one(tmp_path, monkeypatch):
    monkeypatch.setattr("detcheck.storage.collected.content_hash", lambda *parts: "0" * 64)
    of_prompts = [{"prompt": f"p{n}", "tokens": [n]} for n in range(3)]
    assert len(judged(tmp_path, of_prompts)) == 3
    held = Collected([tmp_path])
    assert len({held._input(StoredAnswer("line 1", request, "doc-7")) for request in ("a", "b", "c", "d", "a")}) == 4


def test_all_equal_in_one_size_only_is_no_pass(tmp_path):
    assert judged(tmp_path, [{"tokens": [1], "batch_size": 4}] * 5)[0].verdict is Verdict.INCONCLUSIVE
    assert (
        judged(tmp_path, [{"tokens": [1], "batch_size": 4}, {"tokens": [1], "batch_size": 1}])[0].verdict
        is Verdict.IDENTICAL
    )


@pytest.mark.parametrize(
    ("sizes_and_tokens", "verdict"),
    [
        ([(1, 5), (1, 5), (2, 6), (2, 6)], Verdict.BATCH_VARIANT),
        ([(1, 5), (1, 6), (2, 5), (2, 5)], Verdict.RUN_VARIANT),  # a batch of one has no company to blame
        ([(1, 5), (1, 5), (2, 5), (2, 6)], Verdict.DIVERGENT),  # slot and neighbours are not known
        ([(1, 5), (2, 6)], Verdict.DIVERGENT),  # nothing was repeated
    ],
)
def test_verdicts_by_batch_size(tmp_path, sizes_and_tokens, verdict):
    rows = [{"tokens": [token], "batch_size": size} for size, token in sizes_and_tokens]
    assert judged(tmp_path, rows)[0].verdict is verdict


def test_rows_of_one_batch_count_once_in_the_interval(tmp_path):
    rows = [
        {"tokens": [1], "batch_size": size, "trial": trial}
        for trial in range(3)
        for size in (1, 4)
        for _ in range(size)
    ]
    (finding,) = judged(tmp_path, rows)
    assert (finding.verdict, finding.samples, finding.evidence["batches"]) == (Verdict.IDENTICAL, 15, 6)


def test_without_trials_a_batch_is_counted_once_for_its_rows(tmp_path):
    (finding,) = judged(tmp_path, [{"tokens": [1], "batch_size": size} for size in (4, 8) for _ in range(40)])
    assert finding.evidence["batches"] == 10 + 5


def test_unseen_batches_give_no_bound(tmp_path):
    (finding,) = judged(tmp_path, [{"tokens": [1]}] * 300, allow_unseen_batch=True)
    assert (finding.evidence["batches"], finding.interval) == (None, (0.0, 1.0))


def test_prompts_are_judged_apart(tmp_path):
    findings = judged(tmp_path, [{"tokens": [1], "prompt": "a"}, {"tokens": [2], "prompt": "b"}] * 2)
    assert [f.distinct for f in findings] == [1, 1]


def test_failed_and_empty_samples_are_missing_and_named(tmp_path):
    rows = [{"tokens": [1], "batch_size": 1 + n % 2} for n in range(4)] + [
        {"tokens": None, "error": "HTTP 500"},
        {"tokens": []},
        {"text": ""},
    ]
    (finding,) = judged(tmp_path, rows)
    assert (finding.verdict, finding.missing) == (Verdict.INCONCLUSIVE, 3)
    assert finding.evidence["missing"] == {"HTTP 500": 1, "empty completion": 2}


def test_log_probabilities_are_compared_by_bits(tmp_path):
    rows = [
        '{"tokens": [1], "logprobs": [0.0]}',
        '{"tokens": [1], "logprobs": [-0.0]}',
        '{"tokens": [1], "logprobs": [NaN]}',
    ]
    (finding,) = judged(tmp_path, rows)
    assert (finding.distinct, finding.distinct_bits) == (1, 3)
    (finding,) = judged(tmp_path, [{"tokens": [1], "logprobs": [None]}] * 2, allow_unseen_batch=True)
    assert finding.evidence["compared"] == "tokens"


def test_text_that_is_equal_in_other_tokens_differs(tmp_path):
    (finding,) = judged(tmp_path, [{"tokens": [1, 2], "text": "ab"}, {"tokens": [3], "text": "ab"}])
    assert finding.distinct == 2


def test_parquet(tmp_path):
    path = tmp_path / "c.parquet"
    rows = [
        {"tokens": [1, 2], "logprobs": [-1.0, -2.0], "batch_size": 1},
        {"tokens": [1, 3], "logprobs": [-1.0, -2.0], "batch_size": 2},
    ] * 2
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert runner.judge_file(path).verdict is Verdict.BATCH_VARIANT


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no completions"),
        (["not json"], "is none of JSONL, JSON, CSV and parquet"),
        (["[1, 2]"], "line 1: wants an object"),
        ([{"completion": "x"}], "line 1: wants `tokens` or `text`; found the columns completion"),
        ([{"tokens": [1]}, {"tokens": "12"}], "line 2: `tokens` wants a list of ids or of strings; found '12' (str)"),
        ([{"tokens": [1.5]}], "line 1: `tokens`"),
        ([{"tokens": [True]}], "line 1: `tokens`"),
        ([{"tokens": [10**30]}], "line 1: `tokens`"),
        (['{"tokens": [1], "logprobs": [1' + "0" * 400 + "]}"], "beyond float64"),
        (["[" * 100_000], "line 1 is not JSON"),
        ([{"\x1b[31mkey": 1}], "found the columns"),
        ([{"text": 7}], "line 1: `text` wants a string"),
        ([{"tokens": [1], "logprobs": [0.1, 0.2]}], "2 numbers for 1 tokens"),
        ([{"tokens": [1], "logprobs": ["a"]}], "`logprobs` wants a list of numbers"),
        ([{"text": "a", "logprobs": [0.1]}], "`logprobs` need `tokens`"),
        ([{"tokens": [1], "batch_size": 0}], "`batch_size` wants a whole number"),
        ([{"tokens": [1], "trial": "x"}], "`trial` wants a whole number"),
        ([{"tokens": [1]}, {"text": "a"}], "line 2 has text, no logprobs, no finish_reason, but"),
        ([{"tokens": [1]}, {"tokens": [1], "logprobs": [0.5]}], "line 2 has ids, logprobs, no finish_reason, but"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(tmp_path, rows, says):
    with pytest.raises(UsageError) as refused:
        judged(tmp_path, rows)
    assert says in str(refused.value)


def test_odd_prompts_and_reasons_are_taken(tmp_path):
    rows = [{"tokens": [1], "prompt": [{"role": "user"}], "finish_reason": "\ud800"}] * 2
    assert judged(tmp_path, rows)[0].samples == 2


def test_a_torn_parquet_file_is_refused(tmp_path):
    path = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"tokens": [1]}]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="not a whole parquet file"):
        runner.judge_file(path)


TENSORS = {
    "a.npy": (lambda path: np.save(path, np.ones(3)), "an array of numpy"),
    "a.npz": (lambda path: np.savez(path, x=np.ones(3)), "an archive"),
    "a.pkl": (lambda path: path.write_bytes(pickle.dumps([1.0])), "pickled"),
    "a.safetensors": (lambda path: safetensors.numpy.save_file({"x": np.ones(3)}, path), "safetensors"),
    "m.gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(16)), "a model"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_file_of_tensors_is_told_what_judge_reads_instead(tmp_path, name):
    save, kind = TENSORS[name]
    save(tmp_path / name)
    with pytest.raises(UsageError, match=f"is {kind}.* and judge reads completions: .* as JSONL, JSON, CSV or parquet"):
        runner.judge_file(tmp_path / name)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is none of JSONL, JSON, CSV and parquet"):
        runner.judge_file(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", "", "there is no prompt in it"),
        ("p.jsonl", '{"prompt": "a"}\nnope', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": ""}', "line 1: found"),
        ("p.jsonl", '{"messages": [{"role": "user"}]}', "wants"),
        ("p.jsonl", '{"body": {"body": {"prompt": "a"}}}', "wants"),
        ("p.jsonl", '{"body": []}', "wants"),
    ],
)
def test_prompt_files_are_refused_in_words(tmp_path, name, content, says):
    from detcheck.harness.prompts import read_prompts

    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=says):
        read_prompts(tmp_path / name)


def test_prompt_files_are_read(tmp_path):
    from detcheck.harness.prompts import read_prompts

    (tmp_path / "p.txt").write_text('one\n\n{"prompt": "not JSON here"}\n')
    assert [q.text for q in read_prompts(tmp_path / "p.txt")] == ["one", '{"prompt": "not JSON here"}']
    (tmp_path / "p.jsonl").write_text(
        '\ufeff{"prompt": "o\u2028ne"}\n{"messages": [{"role": "user", "content": "two"}]}\n'
    )
    assert [q.shown for q in read_prompts(tmp_path / "p.jsonl")] == ["o\u2028ne", "user: two"]
    others = '{"question": "a"}\n{"text": "b"}\n{"custom_id": "1", "body": {"messages": [{"role": "user", "content": "c"}]}}\n'
    (tmp_path / "q.jsonl").write_text(others + '{"body": {"model": "m", "prompt": "d"}}\n')
    assert [q.shown for q in read_prompts(tmp_path / "q.jsonl")] == ["a", "b", "user: c", "d"]
