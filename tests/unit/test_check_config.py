"""What a config file asks, and what is said of one that asks wrongly: table, key, the nearest name, what to do."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detcheck.check import file
from detcheck.check.command import Command, names
from detcheck.check.questions import ConfigError, questions
from detcheck.check.run import of_ours
from detcheck.errors import UsageError
from detcheck.spec import Kernels
from detcheck.suite import Member
from detcheck.verdict import FailOn


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Text of a config file -> what it asks; of pyproject.toml where it has [tool.detcheck]."""
    monkeypatch.chdir(tmp_path)

    def read(text):
        (tmp_path / ("pyproject.toml" if "tool.detcheck" in text else "detcheck.toml")).write_text(text, "utf-8")
        return questions(file.find(Path()))

    return read


@pytest.fixture
def faults(asked):
    def read(text):
        with pytest.raises(ConfigError) as error:
            asked(text)
        return error.value.faults

    return read


def test_natural_values_and_those_of_the_command_line_ask_the_same(asked):
    natural = (
        '[probes.kernels]\nbatch-sizes = [1, 2, 8]\ntrials = 3\nop = "rmsnorm"\nshapes = ["1024"]\nfail-fast = true\n'
    )
    typed = '[probes.kernels]\nbatch_sizes = "1,2,8"\ntrials = "3"\nop = "rmsnorm"\nshapes = "1024"\nfail_fast = true\n'
    spec = asked(natural).specs["kernels"]
    assert spec == asked(typed).specs["kernels"]
    assert spec.batch_sizes == (1, 2, 8) and spec.trials == 3 and spec.fail_fast and spec.options.shapes == ("1024",)
    assert spec.kernels is Kernels.BOTH  # the probe's own default
    assert spec.command() == "detcheck kernels --trials 3 --batch-sizes 1,2,8 --fail-fast --op rmsnorm --shapes 1024"


def test_a_default_goes_to_every_probe_that_has_the_option_and_its_own_value_wins(asked, monkeypatch):
    monkeypatch.setenv("A_KEY", "a")
    monkeypatch.setenv("C_KEY", "c")
    text = (
        'trials = 5\nsamples = 8\nfail-on = "never"\nbase-url = "http://localhost"\nheader = ["A=A_KEY", "C=C_KEY"]\n'
        '[probes.one]\nprobe = "completions"\n[probes.two]\nprobe = "completions"\nsamples = 9\ntimeout = 2\n[probes.matmul]\n'
    )
    specs = asked(text).specs
    assert list(specs) == ["one", "two", "matmul"]
    assert [specs[name].options.samples for name in ("one", "two")] == [8, 9]
    assert {spec.trials for spec in specs.values()} == {5} and {s.fail_on for s in specs.values()} == {FailOn.NEVER}
    assert specs["one"].options.header == ("A=A_KEY", "C=C_KEY") and specs["two"].options.timeout == 2.0


def test_every_command_can_be_asked_with_any_of_its_options():
    for name in names():
        assert {"fail_on"} <= Command.of(name).options.keys()


def test_files_are_judged_and_runs_compared(asked, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"tokens": [1]}\n')
    (tmp_path / "run").mkdir()
    specs = asked(
        '[probes.answers]\nprobe = "judge"\nfile = "answers.jsonl"\nallow-unseen-batch = true\ninput-format = "csv"\n'
        '[probes.compare]\na = "run"\nb = "run"\n'
    ).specs
    assert specs["answers"].options.allow_unseen_batch and specs["answers"].options.input_format == "csv"
    assert specs["answers"].command() == "detcheck judge answers.jsonl --input-format csv --allow-unseen-batch"
    assert specs["compare"].command() == "detcheck compare run run"


@pytest.mark.parametrize("name", ["junit.xml", "Report.json", "index.html"])
def test_a_name_that_a_report_of_all_has_is_refused(faults, name):
    (said,) = faults(f'[probes."{name}"]\nprobe = "matmul"\n')
    assert "so a report of all is called, as are index.html, junit.xml, report.json" in said and "Rename it" in said


def test_nothing_to_ask_is_a_fault_of_the_file_and_no_pass_of_all(faults, tmp_path):
    (tmp_path / "k.py").write_text("x = 1\n")
    (said,) = faults('[probes.certify]\nfiles = ["k.py"]\nallow-none = true\n[probes.matmul]\n')
    assert "no kernel is declared in k.py" in said and "allow-none is no pass here" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "detcheck.toml: nothing is asked. Add a table, like [probes.completions]; `detcheck init` writes"),
        ("[tool.detcheck]", "pyproject.toml, [tool.detcheck]: nothing is asked. Add a table, like [tool.detcheck.probes."),
        ("probes = 3", "detcheck.toml: probes wants tables, like [probes.completions]; got 3"),
        ("probes.batch = 3", "detcheck.toml, [probes]: batch wants a table, like [probes.completions]; got 3"),
        ("[probes.compltions]", 'compltions is no probe; say which it asks, probe = "..."; the nearest is completions. There are batch'),
        ('[probes.a]\nprobe = "btach"', "[probes.a]: probe: there is no 'btach'; the nearest is batch. There are batch, bisect"),
        ("[probes.a]\nprobe = 1", "[probes.a]: probe: there is no 1. There are"),
        ('[probes."../x"]', "the name is a folder's too"),
        ('[probes.b]\nprobe = "matmul"\n[probes.B]\nprobe = "matmul"', "[probes.B]: b is the same but for capitals. Rename one"),
        ("smaples = 3\n[probes.completions]", "detcheck.toml: smaples: no probe here has such an option; the nearest is samples"),
        ("samples = 3\n[probes.matmul]", "detcheck.toml: samples: no probe here has such an option; it is one of completions,"),
        ("[probes.completions]\nsmaples = 3", "[probes.completions]: smaples: completions has no such option; the nearest is samples. Rename"),
        ("[probes.completions]\nn = 3", "[probes.completions]: n: write samples"),
        ("[probes.kernels]\nchat = true", "chat: kernels has no such option; it is one of batch, bisect, completions, logprobs, reload. Rename"),
        ("[probes.kernels]\nxyzzy = true", "xyzzy: kernels has no such option. Rename it or leave it out; `detcheck kernels --help` names all"),
        ("[completions]\n[probes.matmul]", "there is no table completions; a question is a table below probes, like probes.completions"),
        ("[prbes.matmul]\n[probes.matmul]", "there is no table prbes; the nearest is probes"),
        ('probe = "matmul"\n[probes.matmul]', "probe says what a table below probes asks. Write it there"),
        ('[probes.matmul]\noutput-dir = "x"', "[probes.matmul]: output-dir is one for all. Write it above the tables"),
        ("[probes.matmul]\nfail-on = 'any'\nfail_on = 'any'", "[probes.matmul]: fail_on is there twice, with - and with _"),
        ("[probes.completions]\nsamples = 2.5", "[probes.completions]: samples wants a whole number; got 2.5"),
        ("[probes.completions]\nsamples = true", "samples wants a whole number; got true"),
        ('[probes.completions]\nsamples = "many"', "samples wants a whole number; got 'many'"),
        ("samples = []\n[probes.completions]", "detcheck.toml: samples wants a whole number; got []"),
        ("[probes.completions]\nchat = 1", "chat wants true or false; got 1"),
        ('[probes.completions]\ntimeout = "soon"', "timeout wants a number; got 'soon'"),
        ("[probes.completions]\nprompt = 3", "prompt wants text in quotes; got 3"),
        ("[probes.completions]\nengine-arg = [1]", "engine-arg wants text, or a list of texts; got [1]"),
        ("[probes.completions]\nbatch-sizes = [1, 2.5]", "batch-sizes wants a list, or text as on the command line; got [1, 2.5]"),
        ("[probes.completions]\nbatch-sizes = [0]", "batch-sizes wants whole numbers of rows from 1 up, like 1,8,64; got 0"),
        ('[probes.completions]\nkernels = "bth"', "kernels wants one of stock, batch-invariant, both, engine; got 'bth'; the nearest is both"),
        ("[probes.completions]\nkernels = 3", "kernels wants one of stock, batch-invariant, both, engine; got 3"),
        ("[probes.completions]\nbase-url = 'localhost'", "[probes.completions]: --base-url localhost"),
        ("[probes.completions]\nsamples = 0", "[probes.completions]: --samples must be at least 1; got 0"),
        ("[probes.completions]\nbaseline = 'gone.json'", "[probes.completions]: --baseline gone.json: no such file"),
        ("[probes.bisect]\nrun = 'runs/gone'", "[probes.bisect]: runs/gone: no such run"),
        ("[probes.judge]", '[probes.judge]: file is missing. Say what judge reads: file = "..."'),
        ("[probes.judge]\nfile = 'gone'", "[probes.judge]: file gone: no such file"),
        ("output-dir = 3\n[probes.matmul]", "detcheck.toml: output-dir wants text in quotes; got 3"),
        ("output-dir = '../runs'\n[probes.matmul]", "detcheck.toml: output-dir ../runs leaves the folder"),
        ("output-dir = '/elsewhere'\n[probes.matmul]", "or give --output-dir on the command line"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_table_its_key_and_what_to_do(faults, text, says):
    (fault,) = faults(text)
    assert says in fault


def test_all_that_is_wrong_is_said_together(faults):
    found = faults(
        "smaples = 1\n[probes.matmul]\ntrails = 1\nseed = 'x'\n[probes.batch]\ntrials = 0\n[probes.kernels]\nop = 'nope'\n"
    )
    assert [fault.split(": ")[0] for fault in found] == [
        "detcheck.toml",
        "detcheck.toml, [probes.matmul]",
        "detcheck.toml, [probes.matmul]",
        "detcheck.toml, [probes.batch]",
        "detcheck.toml, [probes.kernels]",
    ]


def test_a_folder_of_results_that_is_a_link_is_named_with_what_goes_on(faults, tmp_path):
    """Nobody wrote a setting."""
    (tmp_path / "runs").symlink_to(tmp_path.parent)
    (found,) = faults("[probes.matmul]")
    assert (
        f"runs, where results go, is a link to {tmp_path.parent}" in found
        and '--output-dir "$(readlink -f runs)"' in found
    )


def test_a_folder_that_the_command_line_names_is_taken_whatever_the_file_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path.parent)
    (tmp_path / "detcheck.toml").write_text("[probes.matmul]\n")
    assert list(questions(file.find(Path()), named_folder=True).specs) == ["matmul"]


def test_a_link_does_not_lead_output_out_of_the_folder(faults, tmp_path):
    (tmp_path / "inside").symlink_to(tmp_path.parent)
    assert "leaves the folder" in faults("output-dir = 'inside/runs'\n[probes.matmul]\n")[0]


def test_the_nearest_file_upward_is_read(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "detcheck.toml").write_text("[probes.matmul]\n")
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'no word of detcheck'\n")
    found = file.find(below)
    assert (found.path, found.folder, found.within) == (tmp_path / "detcheck.toml", tmp_path, "")
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.detcheck.probes.batch]\n")
    found = file.find(below)
    assert (found.folder, found.within, found.table) == (tmp_path / "a", "tool.detcheck", {"probes": {"batch": {}}})


def test_detcheck_toml_wins_over_pyproject_and_that_is_said(tmp_path):
    (tmp_path / "detcheck.toml").write_text("[probes.matmul]\n")
    (tmp_path / "pyproject.toml").write_text("[tool.detcheck.probes.batch]\n")
    found = file.find(tmp_path)
    assert "matmul" in found.table["probes"] and "has a [tool.detcheck] too" in found.warnings[0]
    (tmp_path / "pyproject.toml").write_text("[project")  # not ours to read
    assert file.find(tmp_path).warnings == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("detcheck.toml", b"[probes", "is no TOML"),
        ("detcheck.toml", b"a = 1\na = 2", "is no TOML"),
        ("detcheck.toml", b"\xff", "is no TOML"),
        ("detcheck.toml", b"a = " + b"[" * 5000, "is no TOML"),
        ("pyproject.toml", b"[tool", "is no TOML"),
        ("pyproject.toml", b"[tool]\ndetcheck = 3", "there is no table [tool.detcheck] in it"),
        ("pyproject.toml", b"tool = 3", "there is no detcheck.toml, and no pyproject.toml with [tool.detcheck], in"),
        ("else.txt", b"", "`detcheck init` writes one"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        file.find(tmp_path)
    assert says in str(error.value)


def test_a_named_file(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read it: No such file"):
        file.read(tmp_path / "gone.toml")
    with pytest.raises(UsageError, match=r"cannot read it: Is a directory"):
        file.read(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(UsageError, match=r"there is no table \[tool.detcheck\] in it"):
        file.read(tmp_path / "pyproject.toml")
    (tmp_path / "gpu.toml").write_text("[probes.batch]\n")
    assert file.read(tmp_path / "gpu.toml").table == {"probes": {"batch": {}}}


def test_who_asks_the_model_that_is_built_in_is_told_that_a_pass_says_nothing_of_a_model_of_theirs(asked, tmp_path):
    """And of which probes that holds: not where a model, a server, an op or a file is named."""
    (tmp_path / "answers.jsonl").write_text("")
    server = '[probes.server]\nprobe = "completions"\nbase-url = "http://localhost:1"\n'
    others = server + '[probes.kernels]\nop = "rmsnorm"\n[probes.matmul]\n[probes.judge]\nfile = "answers.jsonl"\n'
    members = [Member(n, s) for n, s in asked("[probes.completions]\n[probes.batch]\n" + others).specs.items()]
    (warning,) = of_ours(members)
    assert warning.startswith("completions, batch: they ask the model that is built in, which shows")
    assert [m.title for m in members] == [
        "completions · amplifier", "batch · amplifier", "server · http://localhost:1", "kernels · rmsnorm", "matmul", "judge",
    ]  # fmt: skip
    assert of_ours(members[2:]) == ()
    (ours,) = of_ours([Member(n, s) for n, s in asked('kernels = "batch-invariant"\n[probes.batch]\n').specs.items()])
    assert ours.startswith("batch: it asks the model that is built in, with detcheck's own kernels, which")


ODD = (10**30, -(10**30), -1, 0, "", "x" * 9000, "1" * 5000, "1,1" + "0" * 30, float("nan"), [], ["\0"], "\0", True)
BESIDE = {"judge": {"file": "answers.jsonl"}, "compare": {"a": ".", "b": "."}}


@pytest.mark.parametrize("name", names())
def test_no_value_of_any_option_hangs_or_is_more_than_a_fault_in_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("answers.jsonl").write_text('{"tokens": [1]}\n')
    config = file.Config(Path("detcheck.toml"), "", {})
    for option in Command.of(name).options:
        for value in ODD:
            table = {"probe": name, **BESIDE.get(name, {}), option.replace("_", "-"): value}
            began = time.monotonic()
            with contextlib.suppress(ConfigError):
                questions(replace(config, table={"probes": {"odd": table}}))
            assert time.monotonic() - began < 20, (option, value)  # a plan of 10**30 samples never ends


@pytest.mark.parametrize(
    "arguments",
    [
        ["completions", "-n", "1" + "0" * 30],
        ["completions", "--dry-run", "--base-url", "http://127.0.0.1:1", "--model", "m", "-n", "1" + "0" * 30],
        ["matmul", "--trials", "1" + "0" * 30],
        ["judge", "x" * 9000],
    ],
)
def test_the_command_line_says_so_too(detcheck, arguments):
    result = detcheck(*arguments)
    assert result.code == 2 and "Traceback" not in result.err and len(result.err) < 400
    assert "must be at most 1000000; got 1000" in result.err or "no file can have so long a name" in result.err
