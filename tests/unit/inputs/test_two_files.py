"""Two files of the same requests: two systems that answer alike pass, and nothing else does."""

import importlib.resources
import json

import jsonschema
import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.report import render
from detcheck.verdict import FailOn, Verdict


def answer(name, text):
    return {"custom_id": name, "error": None, "response": {"status_code": 200, "body": {"choices": [{"text": text}]}}}


@pytest.fixture
def both(write):
    def call(first, second, **options):
        a = write("a.jsonl", *(answer(*one) for one in first))
        b = write("b.jsonl", *(answer(*one) for one in second))
        return runner.judge_file(a, other=b, **options)

    return call


def of(run):
    return {f.case.input: f for f in run.findings}


def test_two_systems_that_answer_alike_pass(both):
    run = both([("r1", "x"), ("r2", "y")], [("r2", "y"), ("r1", "x")])
    assert (run.exit_code, run.warnings) == (0, ())
    finding = of(run)["r1"]
    assert (
        finding.verdict is Verdict.IDENTICAL
        and "all 2 samples, of a.jsonl and b.jsonl, have the same text" in finding.note
    )
    assert "could not be seen" in finding.note and list(finding.evidence["conditions"]) == ["a.jsonl", "b.jsonl"]


def test_one_answer_that_differs_is_found(both):
    run = both([("r1", "x"), ("r2", "yes")], [("r1", "x"), ("r2", "yet")])
    assert {name: f.verdict for name, f in of(run).items()} == {"r1": Verdict.IDENTICAL, "r2": Verdict.DIVERGENT}
    assert (run.exit_code, of(run)["r2"].note, of(run)["r2"].common_prefix) == (1, "a.jsonl and b.jsonl differ", 2)


def test_systems_that_repeat_themselves_are_told_from_those_that_do_not(both):
    assert (
        of(both([("r", "x")] * 2, [("r", "y")] * 3))["r"].note
        == "a.jsonl and b.jsonl differ, though each repeats itself"
    )
    note = of(both([("r", "x"), ("r", "y")], [("r", "x")]))["r"].note
    assert note == "a.jsonl gives 2 answers in 2 samples, and b.jsonl gives 1 answer in 1 sample; they share 1"


def test_a_request_that_only_one_has_is_named_and_no_pass(both):
    run = both([("r1", "x"), ("r2", "y"), ("r2", "y")], [("r1", "x")])
    assert (run.exit_code, of(run)["r2"].verdict) == (3, Verdict.INCONCLUSIVE)
    assert of(run)["r2"].note == "b.jsonl does not have this request"
    assert run.warnings == ("b.jsonl does not have 1 of 2 requests: r2",)
    assert "b.jsonl does not have 1 of 2 requests: r2" in render(run, "terminal")


def test_prompts_are_named_by_how_they_begin(write):
    a, b = (
        write(f"{n}.jsonl", *({"prompt": p, "tokens": [1]} for p in ps))
        for n, ps in (("a", ["one", "two"]), ("b", ["one"]))
    )
    (warning,) = runner.judge_file(a, other=b).warnings
    assert warning.startswith("b.jsonl does not have 1 of 2 requests: 1:") and warning.endswith(" ('two')")


def test_the_report_is_described_by_its_schema(both):
    schema = json.loads((importlib.resources.files("detcheck") / "formats" / "report.schema.json").read_text())
    run = both([("r1", "x"), ("r2", "y")], [("r1", "z")])
    report = json.loads(render(run, "json"))
    jsonschema.validate(report, schema)
    described = schema["$defs"]["finding"]["properties"]["evidence"]["properties"]
    assert {"sides", "absent_in", "shared"} <= set(described) & set(report["findings"][0]["evidence"])


def test_many_that_only_one_has_are_counted(both):
    run = both([(f"r{n}", "x") for n in range(50)], [("r0", "x")])
    assert run.warnings[0].startswith("b.jsonl does not have 49 of 50 requests: r1, r2, ")
    assert run.warnings[0].endswith("r20 and 29 more")


def test_files_that_share_no_request_are_no_pass(both):
    assert both([("r1", "x")], [("r2", "x")], allow_unseen_batch=True).exit_code == 3


def test_a_sample_that_failed_is_missing_not_absent(write):
    failed = {"custom_id": "r", "response": None, "error": "late"}
    run = runner.judge_file(write("a.jsonl", answer("r", "x")), other=write("b.jsonl", failed))
    assert (run.exit_code, run.warnings, run.findings[0].evidence["missing"]) == (3, (), {"late": 1})


def test_batch_sizes_of_two_systems_are_not_blamed_on_the_batch(write):
    rows = [{"tokens": [token], "batch_size": size, "prompt": "p"} for token, size in ((1, 1), (1, 1), (2, 4), (2, 4))]
    a, b = write("a.jsonl", *rows[:2]), write("b.jsonl", *rows[2:])
    assert runner.judge_file(a, other=b).findings[0].verdict is Verdict.DIVERGENT
    assert runner.judge_file(write("c.jsonl", *rows)).findings[0].verdict is Verdict.BATCH_VARIANT


def test_a_lone_request_that_does_not_repeat_is_seen_within_a_file(write):
    rows = [{"tokens": [token], "batch_size": 1} for token in (1, 2)]
    run = runner.judge_file(write("a.jsonl", *rows), other=write("b.jsonl", rows[0]))
    assert run.findings[0].verdict is Verdict.RUN_VARIANT and "within one file" in run.findings[0].note


def test_log_likelihoods_of_two_systems(write):
    row = {"doc_id": 0, "arguments": [["Q", " yes"], ["Q", " no"]], "resps": [[[-1.5, True]], [[-2.0, False]]]}
    other = json.loads(json.dumps(row).replace("-2.0", "-2.0625"))
    run = runner.judge_file(write("a.jsonl", row), other=write("b.jsonl", other))
    (finding,) = run.findings
    assert (finding.latent, finding.metrics) == (True, {"max_abs": 0.0625})
    said = render(run, "terminal")
    assert "the divergence is latent: choices are equal, log-probabilities are not" in said
    assert "log-probabilities of shared choices are up to 0.0625 nats apart" in said and "ulp" not in said
    assert runner.judge_file(run.spec.options.file, other=run.spec.options.other, fail_on=FailOn.TOKENS).exit_code == 0


def test_files_of_one_name_are_told_by_their_folders(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(json.dumps(answer("r", folder)))
    run = runner.judge_file(tmp_path / "one" / "a.jsonl", other=tmp_path / "two" / "a.jsonl")
    assert run.findings[0].note == f"{tmp_path}/one/a.jsonl and {tmp_path}/two/a.jsonl differ"


def test_what_cannot_be_compared_is_refused(write):
    a = write("a.jsonl", {"tokens": [1]})
    with pytest.raises(UsageError, match="are the same file"):
        runner.judge_file(a, other=a)
    with pytest.raises(UsageError, match=r"b\.jsonl, line 1 has text, .* but .*a\.jsonl, line 1 has ids"):
        runner.judge_file(a, other=write("b.jsonl", {"text": "a"}))
    with pytest.raises(UsageError, match="no such file"):
        runner.judge_file(a, other=a.with_name("none.jsonl"))


def test_the_command_line(write, detcheck):
    a, b = write("a.jsonl", answer("r", "x")), write("b.jsonl", answer("r", "y"))
    result = detcheck("judge", a, b, "--input-format", "openai-batch")
    assert result.code == 1 and "a.jsonl and b.jsonl differ" in result.out
    assert runner.judge_file(a, other=b).command == f"detcheck judge {a} {b}"
    result = detcheck("judge", a, "--input-format", "csv")
    assert result.code == 2 and result.err.count("\n") == 1 and "Traceback" not in result.err
