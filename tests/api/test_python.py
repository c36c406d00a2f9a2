"""The Python API: keywords as the commands declare them, and a run's tables against its own report.json."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import only_run

import detcheck
from detcheck import lookup
from detcheck.errors import FailedError, UsageError
from detcheck.spec import Kernels, Spec

COUNTS = ("samples", "missing", "distinct", "distinct_bits", "mode_count", "common_prefix", "common_prefix_bits")


@pytest.fixture(scope="module")
def divergent(tmp_path_factory):
    """A real model, on stock kernels that react to the batch and on ours, asked from Python."""
    from reacting import stock

    folder = tmp_path_factory.mktemp("runs")
    with stock(tmp_path_factory.mktemp("reacting")):
        return detcheck.completions(
            samples=8, max_tokens=12, kernels="both", batch_sizes=[1, 4], output_dir=folder, progress=False
        )


@pytest.fixture(scope="module")
def identical(tmp_path_factory):
    options = {"kernels": "batch-invariant", "dtype": "float32", "shapes": "1024", "batch_sizes": (1, 2, 8)}
    return detcheck.kernels(op="rmsnorm", **options, output_dir=tmp_path_factory.mktemp("runs"), progress=False)


@pytest.fixture(params=["divergent", "identical"])
def run(request):
    return request.getfixturevalue(request.param)


def test_what_they_found(divergent, identical):
    assert identical.verdict == "identical" and identical.exit_code == 0
    stock, ours = divergent.findings.to_dict("records")
    assert (stock["kernels"], stock["role"], stock["verdict"]) == ("stock", "reacts", "batch-variant")
    assert (ours["kernels"], ours["role"], ours["verdict"]) == ("batch-invariant", "gates", "identical")
    assert stock["distinct_bits"] > 1 and ours["distinct_bits"] == 1


def test_every_table_says_what_report_json_says(run):
    report = json.loads((run.path / "report.json").read_text())
    assert (run.verdict, run.exit_code, run.command) == (report["verdict"], report["exit_code"], report["reproduce"])
    assert len(run.findings) == len(report["findings"])
    conditions = run.conditions.set_index(["finding", "condition"])
    for n, (row, finding) in enumerate(zip(run.findings.to_dict("records"), report["findings"], strict=True)):
        assert {k: row[k] for k in finding["case"]} == finding["case"]
        assert {k: row[k] for k in (*COUNTS, "verdict", "note", "role")} == {
            k: finding[k] for k in (*COUNTS, "verdict", "note", "role")
        }
        assert [row["interval_low"], row["interval_high"]] == finding["interval"]
        assert [row["interval_bits_low"], row["interval_bits_high"]] == finding["interval_bits"]
        assert {k: row[k] for k in finding["metrics"]} == finding["metrics"]
        of_it = finding["evidence"]["conditions"]
        assert sorted(conditions.loc[n].index) == list(of_it)
        for name, counts in of_it.items():
            assert {k: int(v) for k, v in conditions.loc[n, name][list(counts)].items()} == counts
        seen = run.observations[
            (run.observations["kernels"] == row["kernels"]) & (run.observations["input"] == row["input"])
        ]
        if row["role"] != "planted":
            seen = seen[seen["condition"].isin(of_it)]
            assert seen["outcome"].nunique() == finding["distinct_bits"] or len(report["findings"]) > 2
    assert run.outcomes["count"].sum() == run.observations["outcome"].notna().sum() == report["summary"]["samples"]


def test_outcomes_have_the_bits_that_were_stored(divergent):
    from detcheck.storage.folder import RunFolder

    stored = RunFolder(divergent.path).outcomes()
    assert set(divergent.outcomes["id"]) == set(stored) and divergent.outcomes["count"].is_monotonic_decreasing
    for row in divergent.outcomes.to_dict("records"):
        held = stored[row["id"]]
        assert row["tokens"].tolist() == held.tokens.tolist() and row["text"] == held.text
        assert row["logprobs"].tobytes() == held.logprobs.tobytes() and row["logprobs"].dtype == np.float32
    first = divergent.observations.iloc[0]
    assert first["condition"] == "alone" and first["batch_sizes"] == (1,) and first["batch_size"] == 1


def test_elements_of_a_tensor_are_numbers_too(identical):
    rows = identical.outcomes
    assert set(rows["unit"]) == {"element"}
    for bits, values in zip(rows["tokens"], rows["values"], strict=True):
        assert values.view(np.uint32).tolist() == bits.tolist()
    assert (identical.observations["error"].dropna() < 1e-5).all()


def test_a_table_is_read_when_asked_for_and_only_what_it_needs(divergent, monkeypatch):
    read = []
    monkeypatch.setattr(
        "detcheck.api.frames.stored",
        lambda path, kind, columns, real=detcheck.api.frames.stored: read.append(kind) or real(path, kind, columns),
    )
    again = detcheck.load(divergent.path)
    assert again.findings is again.findings and not again.conditions.empty and read == []
    assert again.observations.equals(divergent.observations) and again.observations is again.observations
    assert read == ["observations"]
    assert again.outcomes["id"].tolist() == divergent.outcomes["id"].tolist() and read == ["observations", "outcomes"]


def test_a_torn_part_is_left_out_as_judging_leaves_it_out(divergent, tmp_path):
    import shutil

    shutil.copytree(divergent.path, tmp_path / "run")
    part = sorted((tmp_path / "run" / "observations").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-20])
    torn = detcheck.load(tmp_path / "run")
    assert any("torn" in said for said in torn.warnings)
    assert len(torn.observations) == torn.findings["samples"].sum() < len(divergent.observations)


def test_judge_and_compare(divergent, write):
    lines = [{"tokens": [1, 2, n], "text": f"a {n}", "batch_size": 1 + n, "prompt": "p"} for n in (0, 0, 1)]
    run = detcheck.judge(write("answers.jsonl", *lines))
    assert run.verdict == "divergent" or run.exit_code == 1
    assert len(run.observations) == 3 and run.outcomes["count"].tolist() == [2, 1] and run.path is None
    assert detcheck.judge(file=write("same.jsonl", *lines[:1] * 2), allow_unseen_batch=True).exit_code in (0, 3)
    both = detcheck.compare(divergent, divergent.path / "baseline.json")
    assert both.verdict == "identical"
    with pytest.raises(UsageError, match="a comparison observes nothing itself"):
        both.observations  # noqa: B018


def test_packages_that_are_called():
    """Before and after a part of theirs was imported, in a process that has imported nothing."""
    code = """
import detcheck, inspect, sys
assert "op" in inspect.signature(detcheck.kernels).parameters and "torch" not in sys.modules
import detcheck.kernels.rmsnorm, detcheck.judge.statistics
from detcheck.kernels import rmsnorm
assert detcheck.kernels.rmsnorm is rmsnorm and rmsnorm.OP.name == "rmsnorm"
assert "op" in inspect.signature(detcheck.kernels).parameters and "Parameters" in inspect.getdoc(detcheck.judge)
for asked in (detcheck.kernels, detcheck.judge):
    try:
        asked(nonsense=1)
    except TypeError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kernels() has no keyword nonsense. It has: op, ")


@pytest.mark.parametrize("name", [*lookup.names("probes"), "judge", "compare"])
def test_every_command_is_a_function_with_its_options(name):
    from detcheck.api.keywords import declared
    from detcheck.probe import Probe
    from detcheck.spec import Comparing, Judging

    kind = {"judge": Judging, "compare": Comparing}.get(name) or Probe(name).options
    asked = getattr(detcheck, name)
    known = inspect.signature(asked).parameters
    declared_names = {one.name for part in declared(kind) for one in part}
    assert set(known) - {"output_dir", "progress"} == declared_names
    said = inspect.getdoc(asked)
    assert all(f"\n{one} : " in said for one in known) and " --" not in said
    assert name in dir(detcheck)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sample": 3}, r"completions\(\) has no keyword sample. Did you mean samples\?"),
        ({"--batch-sizes": 3}, "Did you mean batch_sizes"),
        ({"xyzzy": 3}, r"has no keyword xyzzy. It has: .*max_tokens.*progress"),
        ({"samples": "three"}, "samples wants a whole number; got 'three', a str"),
        ({"samples": True}, "samples wants a whole number; got True"),
        ({"samples": 0}, "^samples must be at least 1; got 0"),
        ({"kernels": "our"}, "kernels is one of stock, batch-invariant, both, engine; got 'our'"),
        ({"batch_sizes": [0]}, "wants whole numbers of rows from 1 up"),
        ({"batch_sizes": [1.5]}, "batch_sizes wants text; got 1.5"),
        ({"chat": 1}, "chat wants True or False; got 1"),
        ({"temperature": "hot"}, "temperature wants a number"),
        ({"prompt": ["a", "b"]}, "prompt wants text; got"),
        ({"prompt_file": "nowhere.txt"}, "prompt_file"),
    ],
)
def test_what_cannot_be_asked(asked, says, tmp_path):
    with pytest.raises(UsageError, match=says) as raised:
        detcheck.completions(**asked, output_dir=tmp_path / "runs")
    assert isinstance(raised.value, TypeError) == ("keyword" in str(raised.value))
    assert not (tmp_path / "runs").exists()


def test_what_is_no_folder(divergent):
    compared = detcheck.compare(divergent, divergent.path / "baseline.json")
    for asked in (detcheck.load, detcheck.resume):
        with pytest.raises(UsageError, match="path wants text or a path; got None, a NoneType"):
            asked(None)
        with pytest.raises(UsageError, match="that run has no folder, since it was not stored"):
            asked(compared)
    with pytest.raises(UsageError, match="output_dir wants text or a path; got None"):
        detcheck.completions(output_dir=None)
    with pytest.raises(UsageError, match="output_dir wants text or a path; got 3, an int"):
        detcheck.run(divergent.spec, 3)


def test_positional_values():
    with pytest.raises(TypeError, match="takes values without a keyword: none; got 1"):
        detcheck.completions(3)
    with pytest.raises(TypeError, match="needs a and b"):
        detcheck.compare()
    with pytest.raises(TypeError, match="got file twice"):
        detcheck.judge("a.jsonl", file="b.jsonl")


def test_values_of_python(monkeypatch, tmp_path):
    import torch

    asked = []
    monkeypatch.setattr("detcheck.runner.run", lambda spec, *_: asked.append(spec) or (_ for _ in ()).throw(KeyError))
    given = {
        "model": tmp_path, "dtype": torch.bfloat16, "batch_sizes": 8, "conditions": ["alone", "wave-8"],
        "engine_arg": {"max_num_seqs": 64, "speculative_config": {"method": "ngram"}}, "kernels": Kernels.BOTH, "samples": np.int64(7),
        "temperature": 1, "other_adapter": tmp_path / "a", "base_url": "http://localhost:8000",
    }  # fmt: skip
    with pytest.raises(KeyError):
        detcheck.completions(**given)
    spec: Spec = asked[0]
    assert (spec.model, spec.dtype, spec.batch_sizes, spec.kernels) == (str(tmp_path), "bfloat16", (8,), Kernels.BOTH)
    own = spec.options
    assert own.conditions == ("alone", "wave-8") and own.samples == 7 and own.temperature == 1.0
    assert own.engine_arg == ("max_num_seqs=64", 'speculative_config={"method": "ngram"}')
    assert own.other_adapter == (str(tmp_path / "a"),) and len(own.base_url) == 1
    with pytest.raises(KeyError):
        detcheck.kernels(dtype=[torch.float32, "bf16"], batch_sizes="1,8", shapes=[1024, "4096"])
    assert (asked[1].dtype, asked[1].batch_sizes) == ("float32,bf16", (1, 8))
    assert asked[1].options.shapes == ("1024", "4096") and asked[1].kernels is Kernels.BOTH  # the command's own default


def test_what_could_not_run_is_an_exception(tmp_path):
    """A server that nobody started, and a folder that is no model: no exit, and no folder of a run is left behind."""
    with pytest.raises(FailedError, match="cannot be asked: ConnectError"):
        detcheck.completions(base_url="http://127.0.0.1:9/v1", model="m", output_dir=tmp_path / "runs", progress=False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no weights"):
        detcheck.completions(model=tmp_path, output_dir=tmp_path / "runs", progress=False)
    assert not list((tmp_path / "runs").iterdir())


CELLS = """
import detcheck; run = detcheck.load(FOLDER)
run
run.findings.query("role == 'gates'").verdict.tolist()
run.observations.merge(run.outcomes[["id", "count"]], left_on="outcome", right_on="id").groupby("condition")["count"].max().max()
run.plot("survival")
run.outcomes.explode("logprobs").logprobs.astype(float).mean() < 0
"""


def test_a_notebook(divergent, tmp_path, monkeypatch):
    """Cells, one after the other, as a notebook runs them: the last expression of each is shown."""
    import ast

    import matplotlib as mpl

    mpl.use("Agg")
    monkeypatch.chdir(divergent.path.parent)
    names: dict = {"FOLDER": divergent.path}
    shown = []
    for cell in CELLS.strip().splitlines():
        *before, last = ast.parse(cell).body
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    run, verdicts, most, axes, likely = shown
    assert verdicts == ["identical"] and most == divergent.outcomes["count"].max() and likely
    assert f'href="{divergent.path.name}/report.html"' in run._repr_html_() and len(axes.lines) == 2


def test_ctrl_c_leaves_the_run_and_resume_goes_on(tmp_path):
    def stop(progress):
        assert progress.done <= progress.total
        if progress.done >= 10:
            raise KeyboardInterrupt

    run = detcheck.matmul(shape=[8, 32, 16], trials=60, output_dir=tmp_path, progress=stop)
    assert run.interrupted and run.exit_code == 130 and len(run.observations) < 60 and run.path == only_run(tmp_path)
    whole = detcheck.resume(run, progress=False)
    assert whole.verdict == "identical" and len(whole.observations) == 60
