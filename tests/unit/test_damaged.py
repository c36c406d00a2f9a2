"""Files that were torn or changed, or that contradict themselves: refused in words or in doubt, never a traceback and never a pass."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from detcheck import runner
from detcheck.engines.server.answer import read
from detcheck.engines.server.engine import Capability, PromptInput
from detcheck.engines.server.outcome import EarlierAnswers, outcome_of
from detcheck.errors import UsageError
from detcheck.harness.prompts import read_prompts
from detcheck.models import sentence
from detcheck.op import Signature
from detcheck.probes.certify.examine import read_code
from detcheck.probes.certify.ttir import UnreadableError
from detcheck.probes.logprobs import files
from detcheck.probes.logprobs.keys import sequences
from detcheck.verdict import Verdict

STORED = Path(__file__).parents[1] / "stored"


# Collected files


def test_a_key_that_stands_twice_is_refused(judged):
    with pytest.raises(UsageError, match=r"line 1 holds 'text'.* twice"):
        judged('{"text": "one", "text": "two"}', '{"text": "two"}')


def test_equal_tokens_with_another_text_are_no_pass(judged):
    rows = [{"tokens": [1, 2], "text": text} for text in ("ab", "ab", "ac")]
    (finding,) = judged(*rows, allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.INCONCLUSIVE and "its text is not that of an earlier sample" in finding.note
    (finding,) = judged(*rows[:2], allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.IDENTICAL


def chat(choice):
    body = {"choices": [{"finish_reason": "stop", **choice}]}
    return {"custom_id": "a", "response": {"status_code": 200, "body": body}}


def letter(byte):
    return {"token": "\ufffd", "logprob": -0.5, "bytes": [byte]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[
            ({"message": {"content": "a", **one}}, {"message": {"content": "a", **other}})
            for one, other in (
                ({"function_call": {"name": "f", "arguments": "1"}}, {"function_call": {"name": "f", "arguments": "2"}}),
                ({"tool_calls": [{"id": "x", "custom": {"name": "f", "input": "1"}}]}, {"tool_calls": [{"id": "y", "custom": {"name": "f", "input": "2"}}]}),
                ({"content": 0}, {"content": ""}),
            )
        ],
        ({"text": "a", "logprobs": {"tokens": ["b"]}}, {"text": "c", "logprobs": {"tokens": ["b"]}}),
        ({"message": {"content": "\ufffd"}, "logprobs": {"content": [letter(240)]}}, {"message": {"content": "\ufffd"}, "logprobs": {"content": [letter(195)]}}),
    ],
)  # fmt: skip
def test_all_that_an_answer_of_a_batch_says_is_compared(judged, one, other):
    (finding,) = judged(chat(one), chat(other), allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.DIVERGENT
    (finding,) = judged(chat(one), chat(one), allow_unseen_batch=True).values()
    assert finding.verdict is Verdict.IDENTICAL


# Runs


def column(values, kind):
    """Of the type that it had, where it can have it."""
    try:
        return pyarrow.array(values, kind)
    except (pyarrow.ArrowException, TypeError):
        return pyarrow.array(values)


@pytest.fixture
def damaged(tmp_path):
    """(name of a stored run, file, what is made of its JSON or its rows) -> the run, read."""

    def call(name, file, change):
        folder = tmp_path / "run"
        shutil.copytree(STORED / name / "run", folder)
        path = folder / file
        if path.suffix == ".json":
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
        else:
            before = pyarrow.parquet.ParquetFile(path).read()
            rows = change(before.to_pylist())
            columns = {name: column([row[name] for row in rows], before.schema.field(name).type) for name in rows[0]}
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return runner.load(folder)

    return call


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda head: head["schedule"]["steps"][0].update(case=7), "step 0 is of case 7, and there are 1"),
        (lambda head: head["schedule"]["steps"][0].update(rows=["0"]), "rows of Step is"),
        (lambda head: head["inputs"][0].update(text=3), "text of Prompt is '3'"),
        (lambda head: head["environment"].update(flags=[]), "flags of Environment is"),
        (lambda head: head["subject"].update(name=["a"]), "name of Subject is"),
        (lambda head: head["spec"].update(trials="2"), "trials of Spec is '2'"),
        (lambda head: head["digests"].update(model=1), "digests of Subject is"),
    ],
)
def test_a_run_whose_head_holds_another_type_is_refused(damaged, change, said):
    with pytest.raises(UsageError, match=said):
        damaged("completions-stock", "run.json", lambda head: change(head) or head)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("outcomes/00000.parquet", lambda row: {"id": 7}, "id is int64, not string"),
        ("outcomes/00000.parquet", lambda row: {"text": None}, "text is missing"),
        ("outcomes/00000.parquet", lambda row: {"runners_up": [1]}, "its columns are not of one length"),
        ("observations/00000.parquet", lambda row: {"batch_sizes": [None]}, "batch_sizes"),
        ("observations/00000.parquet", lambda row: {"batch": "0"}, "batch is string, not int32"),
        ("observations/00000.parquet", lambda row: {"missing": None}, "missing is missing"),
    ],
)
def test_a_part_whose_columns_are_not_as_written_is_torn(damaged, file, change, said):
    run = damaged("matmul", file, lambda rows: [row | change(row) for row in rows])
    assert run.verdict is not Verdict.IDENTICAL and any("is torn" in w and said in w for w in run.warnings), (
        run.warnings
    )


def test_a_run_of_the_first_day_numbers_no_samples_and_is_read(damaged):
    def before(rows):
        return [{name: value for name, value in row.items() if name != "sample"} for row in rows]

    run = damaged("matmul", "observations/00000.parquet", before)
    assert (run.verdict, run.warnings) == (Verdict.IDENTICAL, ())


@pytest.mark.parametrize("name", ["certify-refuted", "order", "bisect"])
def test_facts_that_were_changed_are_none(damaged, name):
    """What was found stands in the outcome's text, and its hash in the outcome's tokens."""

    def cleared(rows):
        for row in rows:
            row["text"] = row["text"].replace('"refutes": true', '"refutes": false').replace("1", "2")
        return rows

    run = damaged(name, "outcomes/00000.parquet", cleared)
    assert run.verdict in (Verdict.INCONCLUSIVE, Verdict.UNDECIDED, Verdict.FAILED) and run.warnings


@pytest.mark.parametrize("change", [{"flags": []}, {"device": 3}, {"packages": {"torch": None}}])
def test_a_baseline_whose_environment_is_none_is_refused(tmp_path, change):
    document = json.loads((STORED / "completions-stock" / "run" / "baseline.json").read_text())
    document["environment"] |= change
    (tmp_path / "b.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="of its environment is none"):
        runner.compare(tmp_path / "b.json", STORED / "completions-stock" / "run")


# Prompts and models


def test_a_prompt_with_a_number_beyond_all_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "n": ' + "9" * 5000 + "}")
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_prompts(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    "documents",
    [
        {"modules.json": [{"type": ["x.Pooling"], "path": ""}]},
        {"modules.json": [{"type": "x.Pooling", "path": True}]},
        {"modules.json": [{"type": "x.Pooling", "path": "../other"}]},
        {"modules.json": [{"type": "x.Pooling", "path": "a" * 5000}]},
        {"modules.json": [{"type": "x.Pooling", "path": ""}], "config.json": [1]},
        {"modules.json": [{"type": "x.Pooling", "path": ""}], "config.json": {"pooling_mode": 3}},
        {"modules.json": "[" * 3000},
        {"sentence_bert_config.json": {"max_seq_length": "512"}},
    ],
)
def test_what_sentence_transformers_would_not_write_is_refused(tmp_path, documents):
    for name, document in documents.items():
        (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(UsageError):
        sentence.pooling(tmp_path)
        sentence.longest(tmp_path)


# Log-probabilities


def test_a_side_that_is_no_batch_is_refused():
    rows = {"sampling_per_token_logps": [[-0.5], [-0.5]], "old_per_token_logps": [-0.5, -0.5, -0.5]}
    with pytest.raises(UsageError, match="old_per_token_logps wants a list for each of 2 sequences"):
        sequences([("a", rows)], ("sampler", "trainer"), "a")


@pytest.mark.parametrize("offsets", [([0, 4], [0, 4]), ([0, 4], [5, 8]), ([0, 4], [4, 7])])
def test_tensors_that_overlap_or_leave_gaps_are_refused(tmp_path, offsets):
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": where} for name, where in zip("ab", offsets, strict=True)
    }
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + np.zeros(2, np.float32).tobytes())
    with pytest.raises(UsageError, match="is not a whole safetensors file"):
        files.tensors(tmp_path / "a.safetensors")


# Servers


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "hm"}, {"reasoning": "hm"}, {"refusal": "no"}, {"function_call": {"name": "f", "arguments": "{}"}},
        {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("spelled", [False, True])
def test_what_a_chat_says_beside_its_text_is_compared(beside, spelled):
    """Also where its tokens spell the text alone."""

    def said(number, **more):
        choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": "a", **more}}
        if spelled:
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}]}
        return read({"id": str(number), "choices": [choice]})

    can = {"token ids": "spelled" if spelled else "no", "log-probabilities": "as printed" if spelled else "none"}
    way, before = Capability("chat", {}, can=can), EarlierAnswers()
    plain, same, other, again = (
        outcome_of(one, way, before, PromptInput(text="a"))[0]
        for one in (said(1), said(2), said(3, **beside), said(4, **beside))
    )
    assert plain.id == same.id != other.id == again.id


# Triton's code

SIGNATURE = Signature({"x": "*T", "M": "i32"}, batch=("M",))
CODE = """
module {
  tt.func public @k(%x: !tt.ptr<f32>, %M: i32) attributes {noinline = false} {
    %0 = arith.sitofp %M : i32 to f32
    tt.store %x, %0 : !tt.ptr<f32>
    tt.return
  }
}
"""


def test_an_argument_that_the_signature_does_not_name_is_no_certificate():
    _, against = read_code(CODE, SIGNATURE)
    assert against
    with pytest.raises(UnreadableError) as error:
        read_code(CODE.replace("%M", "%arg1"), SIGNATURE)
    assert error.value.why.code == "unknown_argument"


@pytest.mark.parametrize(
    "line",
    [
        "%9 = scf.for x",
        "%9 = tt.get_program_id",
        '%9 = "tt.reduce"(%M) ({',
        "%0:99999999 = tt.load %x : !tt.ptr<f32>",
        "= 3",
    ],
)
def test_code_in_another_form_is_unreadable_not_an_exception(line):
    with pytest.raises(UnreadableError):
        read_code(CODE.replace("    tt.return", f"    {line}\n    tt.return"), SIGNATURE)
