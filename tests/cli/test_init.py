"""`detcheck init`: the file it writes is asked as it stands, and nothing that is there is lost."""

import html
import re
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import only_run
from models import llama_like

from detcheck.check import file, starter
from detcheck.check.questions import questions

HERE = starter.Here(transformers=True, vllm=False, gpu="", cores=2, free_gib=8.0)
PROJECT = '[project]\nname = "mine"  # kept\n'


def test_the_starter_passes_as_written(detcheck, tmp_path):
    result = detcheck("init")
    assert (
        result.code == 0 and result.out.startswith("wrote detcheck.toml, for ") and "next: detcheck check" in result.out
    )
    result = detcheck("check")
    assert result.code == 0, result.out + result.err
    assert [re.split(r"\s{2,}", line)[:2] for line in result.out.splitlines()[:3]] == [
        ["identical", "completions · amplifier"],
        ["identical", "kernels · rmsnorm"],
        ["identical", "matmul"],
    ]
    folder = only_run(Path("runs"))
    for shown in (
        result.out,
        (folder / "index.html").read_text(),
        html.unescape((folder / "summary.md").read_text()),
    ):
        assert "completions · amplifier" in shown and "says nothing of a model of yours" in shown


def test_what_is_there_is_not_written_over(detcheck):
    Path("detcheck.toml").write_text("# mine\n")
    result = detcheck("init")
    assert (
        result.code == 2
        and "detcheck.toml is there already. Edit it, name another with --config, or --force" in result.err
    )
    assert Path("detcheck.toml").read_text() == "# mine\n"
    assert (
        detcheck("init", "--config", "other.toml").code == 0
        and "completions" in file.read(Path("other.toml")).table["probes"]
    )
    assert detcheck("init", "--force").code == 0 and "probes" in file.read(Path("detcheck.toml")).table


def test_a_table_is_added_to_pyproject(detcheck):
    assert "there is no pyproject.toml here" in detcheck("init", "--pyproject").err
    Path("pyproject.toml").write_text(PROJECT)
    assert detcheck("init", "--pyproject").code == 0 and not Path("detcheck.toml").exists()
    text = Path("pyproject.toml").read_text()
    assert text.startswith(PROJECT)
    asked = questions(file.find(Path()))
    assert list(asked.specs) == ["completions", "kernels", "matmul"] and asked.output_dir == Path("runs")
    result = detcheck("init", "--pyproject")
    assert result.code == 2 and "has [tool.detcheck] already. Edit it there" in result.err
    assert Path("pyproject.toml").read_text() == text
    result = detcheck("init")
    assert (
        result.code == 2 and "has [tool.detcheck] already, and detcheck.toml would be read in its place" in result.err
    )


@pytest.mark.parametrize("text", ["tool = {}\n", "[tool\n", "tool.ruff = 1\n[tool.detcheck-like]\n"])
def test_a_pyproject_that_takes_no_table_is_left_as_it_is(detcheck, text):
    Path("pyproject.toml").write_text(text)
    result = detcheck("init", "--pyproject")
    taken = "detcheck-like" in text
    assert result.code == (0 if taken else 2) and "Traceback" not in result.err
    assert Path("pyproject.toml").read_text().startswith(text) and (taken or Path("pyproject.toml").read_text() == text)


def test_pyproject_is_mentioned_where_it_is(detcheck):
    Path("pyproject.toml").write_text(PROJECT)
    assert "--pyproject adds the same to it, as [tool.detcheck]" in detcheck("init").out
    assert Path("pyproject.toml").read_text() == PROJECT
    assert "use --pyproject" in detcheck("init", "--config", "pyproject.toml", "--force").err


def test_an_unwritable_place(detcheck):
    result = detcheck("init", "--config", "nowhere/detcheck.toml")
    assert result.code == 2 and "nowhere/detcheck.toml: cannot write it: No such file" in result.err


def test_a_file_of_its_own_is_read_in_place_of_pyproject(detcheck):
    Path("pyproject.toml").write_text(PROJECT)
    Path("detcheck.toml").write_text("# mine\n")
    result = detcheck("init", "--pyproject")
    assert result.code == 2 and "detcheck.toml is here, and is read in place of what pyproject.toml says" in result.err
    assert Path("pyproject.toml").read_text() == PROJECT


@pytest.mark.parametrize("more", [["--force"], ["--config", "gpu.toml"]])
def test_pyproject_has_no_name_and_is_not_written_over(detcheck, more):
    Path("pyproject.toml").write_text(PROJECT)
    result = detcheck("init", "--pyproject", *more)
    assert result.code == 2 and f"{more[0]} is about a file of its own" in result.err
    assert Path("pyproject.toml").read_text() == PROJECT and not Path("gpu.toml").exists()


def test_what_is_there_of_pyproject_keeps_its_bytes_its_mode_and_its_link(detcheck):
    before = PROJECT.replace("\n", "\r\n").encode()
    real = Path("real.toml")
    real.write_bytes(before)
    real.chmod(0o600)
    Path("pyproject.toml").symlink_to(real)
    assert detcheck("init", "--pyproject").code == 0
    after = real.read_bytes()
    assert Path("pyproject.toml").is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert after.startswith(before) and after.count(b"\n") == after.count(b"\r\n") > 20
    assert "completions" in file.read(Path("pyproject.toml")).table["probes"]


def test_the_next_command_reads_what_was_written(detcheck):
    assert "next: detcheck check --config 'my gpu.toml'\n" in detcheck("init", "--config", "my gpu.toml").out
    assert detcheck("init").out.endswith("next: detcheck check\n")


def test_a_torch_that_cannot_be_imported_is_said(detcheck, monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise OSError("libcudart.so.13: cannot open")\n')
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = detcheck("init")
    assert result.code == 0 and "torch is installed and cannot be imported (`detcheck env`" in result.out
    assert "take the #" in result.out and tomllib.loads(Path("detcheck.toml").read_text()).keys() == {
        "output-dir",
        "seed",
    }


def probes(found):
    return tomllib.loads(starter.text(found)).get("probes", {})


def test_it_is_fitted_to_the_machine():
    assert probes(HERE)["completions"]["samples"] == 16 and "device" not in probes(HERE)["completions"]
    assert probes(replace(HERE, cores=64))["completions"]["samples"] == 96
    assert probes(replace(HERE, free_gib=1.0))["completions"]["samples"] == 12
    on_gpu = probes(replace(HERE, gpu="H200"))["completions"]
    assert (on_gpu["device"], on_gpu["engine"], on_gpu["samples"]) == ("cuda", "transformers", 200)
    bare = replace(HERE, transformers=False)
    assert probes(bare) == {} and "pip install 'detcheck[transformers]'" in starter.text(bare)
    assert "It is installed here." in starter.text(replace(HERE, vllm=True))


@pytest.mark.parametrize("found", [HERE, replace(HERE, transformers=False, vllm=True)])
def test_every_commented_line_is_one_that_is_understood(found, tmp_path, monkeypatch):
    """Whoever takes the # away, and has the files, asks what the comment says."""
    monkeypatch.chdir(tmp_path)
    llama_like(tmp_path / "model")
    shutil.copy(Path(__file__).parents[1] / "stored" / "completions-stock" / "run" / "baseline.json", tmp_path)
    (tmp_path / "answers.jsonl").write_text("")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    for take in (lambda body: body, starter.within):
        text = re.sub(r"^(?:# )+(\[|[\w-]+ = )", r"\1", take(starter.text(found)), flags=re.M)
        path = tmp_path / ("pyproject.toml" if "tool.detcheck" in text else "detcheck.toml")
        path.write_text(text)
        specs = questions(file.read(path)).specs
        assert list(specs) == ["completions", "kernels", "matmul", "in-vllm", "server", "on-policy", "answers"]
        assert specs["completions"].model == "./model" and specs["in-vllm"].options.engine == "vllm"
