"""What all formats share: each is recognised by its keys, may be asked for, and whatever is wrong with a file is said in words."""

import copy
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from detcheck import lookup, runner
from detcheck.errors import UsageError
from detcheck.report import render
from detcheck.spec import InputFormat
from detcheck.storage import source

ROOT = Path(__file__).parents[3]
EXAMPLES = {
    "detcheck": {"tokens": [1, 2], "text": "ab", "logprobs": [-1.0, -2.0], "batch_size": 1, "trial": 0, "prompt": "p"},
    "lm-eval": {
        "doc_id": 0, "filter": "none", "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " yes"}}, "resps": [[["-1.5", "True"]]],
    },
    "openai-batch": {
        "custom_id": "r1", "error": None,
        "response": {"status_code": 200, "body": {"choices": [{
            "message": {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "stop",
            "logprobs": {"content": [{"token": "a", "logprob": -1.0}]},
        }]}},
    },
    "vllm-bench": {"generated_texts": ["a"], "errors": [""], "input_lens": [5], "max_concurrency": 8},
    "guidellm": {"benchmarks": [{
        "config": {"strategy": {"type_": "concurrent", "streams": 8}},
        "requests": {"successful": [{"request_args": '{"body": {"prompt": "p"}}', "output": "a", "info": {}}], "errored": []},
    }]},
}  # fmt: skip
ODD = [None, True, -1, 1.5, "", "x", "\ud800", "\x1b[31m", [], [[]], [None], {}, {"a": 1}, 10**400]


def places(value, path=()):
    """Where in a JSON value something else may stand."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def with_at(value, path, new):
    if not path:
        return new
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return made


def test_every_format_is_among_the_examples():
    assert {*EXAMPLES, "csv"} == set(source.formats()) == {n.replace("_", "-") for n in lookup.names("storage/inputs")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_recognised_by_its_keys_and_no_other_takes_it(write, name):
    path = write("a.json", EXAMPLES[name])
    assert next(source.read(path, InputFormat.AUTO)) == next(source.read(path, InputFormat(name)))
    for other in set(source.formats()) - {name}:
        if (name, other) != (
            "openai-batch",
            "detcheck",
        ):  # `error` is a key of both: the more telling one is asked first
            with pytest.raises(UsageError, match=f"line 1: --input-format {other}: but"):
                next(source.read(path, InputFormat(other)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_wrong_in_a_line_is_said_in_words_and_with_its_number(write, name):
    """Every value of an object in turn is replaced by what should not stand there: it is read, or refused with the line."""
    refused = 0
    for path in places(EXAMPLES[name]):
        for odd in ODD:
            file = write("a.jsonl", EXAMPLES[name], json.dumps(with_at(EXAMPLES[name], path, odd)))
            try:
                run = runner.judge_file(file)
            except UsageError as error:
                assert f"{file}, line 2" in str(error), (path, odd)
                refused += 1
            else:
                shown = "".join(render(run, format) for format in ("terminal", "md", "junit", "json"))
                assert shown.encode("utf-8") and "\x1b" not in shown, (path, odd)
    assert refused > 20


def test_a_torn_last_line_is_named(write):
    for example in EXAMPLES.values():
        text = json.dumps(example)
        with pytest.raises(UsageError, match=r"line 2 is not JSON: .*If it was cut off there"):
            runner.judge_file(write("a.jsonl", text, text[: len(text) // 2]))


def test_a_torn_document_is_named(write):
    text = json.dumps(EXAMPLES["guidellm"], indent=1)
    with pytest.raises(UsageError, match=r"a\.json is not JSON: .* at line \d+, column"):
        runner.judge_file(write("a.json", text[: len(text) // 2]))


def test_formats_are_not_mixed(write):
    for name, example in EXAMPLES.items():
        other = EXAMPLES["detcheck" if name == "lm-eval" else "lm-eval"]
        with pytest.raises(UsageError, match=f"line 2: is not {name}, as the lines before it are"):
            runner.judge_file(write("a.jsonl", example, other))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_holds_no_completions(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="holds no completions"):
        runner.judge_file(tmp_path / "a.jsonl")


def test_answers_that_are_none_are_missing_samples_not_nothing(judged):
    nothing = with_at(EXAMPLES["openai-batch"], ("response", "body", "choices"), [])
    assert judged(nothing)["r1"].evidence["missing"] == {"no choices": 1}
    (finding,) = judged(with_at(EXAMPLES["lm-eval"], ("resps",), [[]])).values()
    assert finding.evidence["missing"] == {"no answer in `resps`": 1}


def test_parquet_is_read_as_our_own_format_alone(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"tokens": [1]}] * 2), path)
    assert runner.judge_file(path, input_format=InputFormat.DETCHECK).findings[0].samples == 2
    with pytest.raises(UsageError, match="--input-format lm-eval: but the file is parquet, which is read as detcheck"):
        runner.judge_file(path, input_format=InputFormat("lm-eval"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": 1}] * 2), path)
    with pytest.raises(
        UsageError, match="row 1: wants `tokens` or `text`; found the columns a, which are not of csv, "
    ):
        runner.judge_file(path)


TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
CONVERSATIONS = {  # key -> what such a file holds; the first is a document of tau2-bench
    "simulations": {
        "info": {"num_trials": 2},
        "tasks": [],
        "simulations": [{"task_id": "0", "trial": 0, "messages": TURNS}],
    },
    "messages": {"id": "a", "task_id": "0", "trial": 0, "messages": TURNS},
    "traj": {"task_id": 0, "reward": 1.0, "traj": TURNS, "trial": 0},
    "conversations": {"id": "a", "conversations": [{"from": "human", "value": "hello"}]},
}


@pytest.mark.parametrize("key", CONVERSATIONS)
def test_conversations_are_refused_with_what_to_write_instead(write, key):
    with pytest.raises(UsageError, match=rf"holds conversations \(`{key}`\), .* Write a line for each answer"):
        runner.judge_file(write("a.json", CONVERSATIONS[key]))
    told = {"prompt": TURNS[:1], "text": "hi", "trial": 0}  # what the message says to write is read
    (finding,) = runner.judge_file(write("b.jsonl", told, told | {"trial": 1, "text": "hello"})).findings
    assert (finding.samples, finding.distinct) == (2, 2)


def test_lines_are_read_one_at_a_time(write):
    """A line that is wrong is met only when it is its turn."""
    found = source.read(write("a.jsonl", EXAMPLES["lm-eval"], EXAMPLES["lm-eval"], "torn"), InputFormat.AUTO)
    assert next(found) and next(found)
    with pytest.raises(UsageError, match="line 3"):
        next(found)


def test_docs_name_every_format_and_its_keys():
    page = (ROOT / "docs" / "runs.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*)", page, re.M))
    assert set(source.formats()) <= set(rows)
    for name, example in EXAMPLES.items():
        told = set(re.findall(r"`(\w+)`", rows[name].split("|")[0]))
        part = lookup.find("storage/inputs", name.replace("-", "_"))
        assert told and part.recognises(dict.fromkeys(told)) and told & set(example), name
