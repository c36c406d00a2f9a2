"""The command line: exit codes, and errors that say what was wrong, what was found, and what to do."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import only_run
from models import llama_like

from detcheck.output import NoCommands


def run(*arguments, **environment):
    """A process of its own, as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "detcheck", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_from_the_command_line_to_the_exit_code(tmp_path, reacting):
    result = run("completions", "-n", 8, "--max-tokens", 12, "--output-dir", tmp_path / "runs")
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith("batch-variant")
    assert "Total samples: 8, Unique samples: " in result.stdout
    assert "reproduce: detcheck completions --samples 8 --max-tokens 12" in result.stdout
    path = only_run(tmp_path / "runs")
    assert {"run.json", "report.json", "report.md", "report.html", "junit.xml"} <= {p.name for p in path.iterdir()}


def test_json_alone_on_stdout_and_the_format_never_changes_the_code(diverging, detcheck):
    codes = set()
    for name in ("terminal", "json", "md", "html", "junit"):
        result = detcheck("report", diverging.path, "--format", name)
        codes.add(result.code)
        assert result.err == ""
        if name == "json":
            assert json.loads(result.out)["exit_code"] == 1
    assert codes == {1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["completions", "-n", "0"], "--samples must be at least 1; got 0"),
        (["completions", "--max-tokens", "0"], "--max-tokens must be at least 1"),
        (["completions", "--prompt", "  "], "--prompt is empty"),
        (["completions", "--model", ""], "--model is empty"),
        (["completions", "--prompt", "a", "--prompt-file", "b"], "not both"),
        (["completions", "--prompt-file", "nowhere.txt"], "no such file"),
        (["completions", "--model", "./nowhere"], "no such folder"),
        (["completions", "--dtype", "int4"], "--dtype int4"),
        (["completions", "--kernels", "engine"], "no batch-invariant mode of its own"),
        (["completions", "--kernels", "fast"], "fast"),
        (["bisect", "--engine", "server"], "asked from outside"),
        (["completions", "--engine", "server"], "with --base-url"),
        (["completions", "--batch-sizes", "1,x"], "1,x"),
        (["completions", "--batch-sizes", "0"], "from 1 up"),
        (["completions", "-n", "4", "--batch-sizes", "1,2,4,8"], "need at least"),
        (["completions", "--resume", "nowhere"], "no such run"),
        (["completions", "--device", "tpu"], "--device tpu"),
        (["report", "nowhere"], "no such run"),
        (["report", "."], "no run.json"),
        (["judge", "nowhere.jsonl"], "no such file"),
        (["judge", "."], "is a folder"),
        (["completions", "--prompt", "word " * 5000], "Shorten it"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_usage_errors(detcheck, arguments, says):
    result = detcheck(*arguments)
    assert result.code == 2, result.out + result.err
    assert says in result.err.replace("\n", " ")
    assert "Traceback" not in result.err


def test_a_usage_error_leaves_no_folder_behind(detcheck, tmp_path):
    detcheck("completions", "--model", "./nowhere")
    assert not list(tmp_path.glob("runs/*"))


def test_an_unwritable_output_folder(detcheck, tmp_path):
    (tmp_path / "file").write_text("")
    result = detcheck("completions", "--output-dir", "file/runs")
    assert result.code == 2 and "--output-dir file/runs: cannot write there" in result.err


def test_a_model_that_cannot_be_loaded_has_failed_and_says_so_in_every_format(detcheck, tmp_path):
    folder = llama_like(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"torn")
    for name in ("json", "terminal", "md", "html", "junit"):
        result = detcheck("completions", "--model", folder, "--format", name)
        assert result.code == 4
        assert "failed" in result.out and "cannot load" in result.err and "Traceback" not in result.err
    assert not list(tmp_path.glob("runs/*"))


def test_an_uncaught_exception_exits_4_never_1(detcheck, monkeypatch):
    def defect(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("detcheck.runner.run", defect)
    result = detcheck("completions")
    assert result.code == 4 and "this is a defect in detcheck, not a verdict" in result.err


def test_a_reader_that_goes_away_changes_no_code(tmp_path):
    """`detcheck ... | head -1` under pipefail: a closed pipe is not a divergence."""
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps({"tokens": [1], "batch_size": 1 + n % 2}) + "\n" for n in range(4)))
    for name in ("terminal", "html", "json"):
        process = subprocess.Popen(
            [sys.executable, "-m", "detcheck", "judge", file, "--format", name], stdout=subprocess.PIPE
        )
        process.stdout.close()
        assert process.wait() == 0


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken"), EOFError(), OSError(5, "input/output error")])
def test_errors_that_the_framework_would_call_1_exit_4(detcheck, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("detcheck.runner.judge_file", fails)
    assert detcheck("judge", "c.jsonl").code == 4


def test_hostile_names_do_not_reach_the_terminal(detcheck, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"\\u001b[31mEVIL": 1}\n')
    result = detcheck("judge", "c.jsonl")
    assert result.code == 2 and "\x1b" not in result.err and "\\x1b[31mEVIL" in result.err


def test_fail_on_turns_a_1_into_0_and_never_a_verdict_into_another(detcheck, tmp_path):
    tokens = {"tokens": [1, 2], "logprobs": [-0.5, -0.25], "batch_size": 1}
    latent = tokens | {"logprobs": [-0.5, -0.26], "batch_size": 2}
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, [tokens, tokens, latent, latent])))
    for fail_on, code in (("any", 1), ("tokens", 0), ("never", 0)):
        result = detcheck("judge", "c.jsonl", "--fail-on", fail_on, "--format", "json")
        assert (result.code, json.loads(result.out)["verdict"]) == (code, "batch-variant")


def test_several_prompts_are_judged_apart_worst_first(detcheck, tmp_path):
    (tmp_path / "prompts.txt").write_text("Tell me about Richard Feynman\n\nAnd now about someone else\n")
    arguments = ["--prompt-file", "prompts.txt", "-n", "8", "--max-tokens", "16", "--format", "json", "--quiet"]
    result = detcheck("completions", "--model", llama_like(tmp_path / "model"), *arguments)
    report = json.loads(result.out)
    assert [f["case"]["input"].split(":")[0] for f in report["findings"]] == ["0", "1"]
    assert all(f["samples"] == 8 for f in report["findings"])
    assert sorted(report["summary"]["worst_first"]) == sorted(f["case"]["input"] for f in report["findings"])
    assert result.code == report["exit_code"] and result.err == ""


def test_a_stored_spec_is_the_command(detcheck, tmp_path, monkeypatch):
    """What a report gives to reproduce a run parses back to the very spec that was asked."""
    import shlex

    from detcheck.probes.completions.options import Options
    from detcheck.spec import Spec
    from detcheck.verdict import FailOn

    spec = Spec(
        "completions",
        Options(
            samples=7,
            max_tokens=5,
            ignore_eos=True,
            prompt="a 'b' \"c\" $d",
            chat=True,
            attn="eager",
            trust_remote_code=True,
            cache="static",
            compile=True,
        ),
        model="some/model",
        dtype="bfloat16",
        seed=3,
        trials=3,
        batch_sizes=(1, 8),
        fail_on=FailOn.TOKENS,
        fail_fast=True,
    )
    asked = []

    def stop(spec, *_, **__):
        asked.append(spec)
        raise KeyboardInterrupt

    monkeypatch.setattr("detcheck.runner.run", stop)
    assert detcheck(*shlex.split(spec.command())[1:]).code == 130
    assert asked == [spec]


def test_what_a_shell_reads_back_is_the_prompt():
    from detcheck.spec import quote

    word = "a\nb\x1b[31m 'q' \\ \u202e é"
    assert quote(word).isprintable()
    read = subprocess.run(
        ["bash", "-c", f"printf %s {quote(word)}"], capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    assert read.stdout.decode() == word


def test_github_actions_get_the_markdown_and_one_annotation(detcheck, diverging, tmp_path, monkeypatch):
    (tmp_path / "c.jsonl").write_text('{"tokens": [1]}\n{"tokens": [2]}\n')
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = detcheck("judge", "c.jsonl")
    assert (tmp_path / "summary.md").read_text().startswith("# detcheck: divergent")
    assert result.err.count("::error title=detcheck judge::divergent") == 1


def test_github_runs_no_command_of_a_models(detcheck, tmp_path, monkeypatch):
    """Its runner takes `::` at a line's begin, spaces or not, and `##[` anywhere, for a command of ours."""
    hostile = ["a ##[error]x", "::set-output name=verdict::identical", "b\n ::warning::c", "::stop-commands::x"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": t, "batch_size": 1}) + "\n" for t in hostile))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for format in ("terminal", "md", "json", "sarif", "junit"):
        result = detcheck("judge", "c.jsonl", "--format", format)
        commands = re.findall(r"^\s*::.*|##\[.*", result.out + result.err, re.M)
        assert len(commands) == 1 and commands[0].startswith("::error title=detcheck judge::"), commands
        if format == "json":
            monkeypatch.delenv("GITHUB_ACTIONS")
            plain = json.loads(detcheck("judge", "c.jsonl", "--format", format).out)
            assert json.loads(result.out)["findings"] == plain["findings"]
            monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = detcheck("judge", "::error::\n::notice::x")
    assert len(re.findall(r"^\s*::.*", result.err, re.M)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("judge", "50%.jsonl"), "50%25.jsonl: no such file"),
        (("judge", "--nonsense"), "the command line cannot be understood"),
    ],
)
def test_github_shows_what_could_not_be_asked(detcheck, monkeypatch, arguments, said):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = detcheck(*arguments)
    assert result.code == 2 and result.err.splitlines()[-1].startswith(f"::error title=detcheck::{said}")
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert "::error" not in detcheck(*arguments).err


def test_a_stream_without_commands_is_the_same_however_it_is_written():
    for pieces in (["a\n", "::", "error::x", "\n"], ["a\n::error::x\n"], ["a", "\n", "::error", "::x\n"]):
        stream = NoCommands(io.StringIO())
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        assert stream.getvalue() == "a\n:\\:error::x\n"


def test_help_is_fast_and_imports_nothing_heavy():
    heavy = "print(sorted({'torch', 'transformers', 'numpy', 'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules)))"
    code = f"import atexit, sys, runpy; sys.argv = ['detcheck', '--help']; atexit.register(lambda: {heavy}); runpy.run_module('detcheck', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr
    bare = "import typer\napp = typer.Typer()\n@app.command()\ndef nothing() -> None: 'Nothing.'\napp()"
    took = {"-m": [], "-c": []}  # seconds of a core, which a busy machine stretches less than those on the clock
    for _ in range(5):
        for command in (["-m", "detcheck"], ["-c", bare]):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command, "--help"], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took[command[0]].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took["-m"]) < 2.2 * min(took["-c"])  # 1.5 times on a quiet machine, see benchmarks/startup.py


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["matmul", "--nonsense"], 2)])
def test_the_end_waits_for_threads_and_a_library_that_crashes_while_it_is_unloaded_changes_no_code(
    words, code, tmp_path
):
    """The fault: a signal at the very end, in the place of the exit code. Python alone ends so with -6, which is shown first."""
    crash = "import os, sys\nclass Bad:\n    abort = os.abort\n    def __del__(self): self.abort()\nkept = Bad()\n"
    assert subprocess.run([sys.executable, "-c", crash], capture_output=True).returncode == -signal.SIGABRT
    rest = """
import atexit, ctypes, threading, time
from detcheck.__main__ import main
atexit.register(print, "last")
atexit.register(lambda: 1 / 0)
threading.Thread(target=lambda: (time.sleep(0.5), print("thread"))).start()
ctypes.CDLL(None).printf(b"of C ")
file = open("left.txt", "w")
file.write("open")
main()
"""
    done = subprocess.run([sys.executable, "-c", crash + rest, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code and done.stderr.count("ZeroDivisionError") == 1, done.stderr
    assert {"thread", "last", "C"} <= set(done.stdout.split())
    assert (tmp_path / "left.txt").read_text() == "open"


def test_what_goes_wrong_at_the_end_changes_no_code():
    code = "import sys, threading; from detcheck.__main__ import main; threading._register_atexit(lambda: 1 / 0); sys.argv[1:] = ['--version']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (0, True)


def test_whoever_waits_for_the_program_goes_on_after_it():
    command = [sys.executable, "-m", "cProfile", "-m", "detcheck", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "function calls" in done.stdout, done.stdout + done.stderr
    code = "import sys; sys.argv[1:] = ['--version']; from detcheck import __main__\ntry: {}\nfinally: print('after')"
    for call, goes_on in (
        ("__main__.main()", False),
        ("import runpy; runpy.run_module('detcheck', run_name='__main__')", False),
        ("sys.settrace(lambda *_: None); __main__.main()", True),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(call)], capture_output=True, text=True)
        assert (done.returncode, "after" in done.stdout) == (0, goes_on), done.stderr


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch):
    from importlib import metadata

    import detcheck

    installed = detcheck.__version__

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert detcheck.__version__ == installed != "unknown"


def test_the_version_needs_no_command(detcheck):
    from detcheck import __version__

    result = detcheck("--version")
    assert (result.code, result.out, result.err) == (0, f"detcheck {__version__}\n", "")


def test_report_imports_no_torch(diverging):
    code = f"import sys; sys.argv = ['detcheck', 'report', {str(diverging.path)!r}]\nfrom detcheck.cli import main\ntry: main()\nexcept SystemExit as stop: print(stop.code, {{'torch', 'transformers'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "1 set()", result.stderr


def test_a_module_of_the_users_folder_is_not_pythons_own_and_no_import_that_fails_is_a_verdict(tmp_path):
    """`python -m` would take a random.py of the current folder for Python's, and Python ends with 1 where an import fails."""
    (tmp_path / "random.py").write_text("raise SystemExit(0)")
    for name, error in (("broken", "ValueError('broken')"), ("stopped", "KeyboardInterrupt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "typer.py").write_text(f"raise {error}")
    root = str(Path(__file__).parents[2])
    cases = (
        (root, 0, "detcheck 0."),
        (f"{tmp_path / 'broken'}:{root}", 4, "ValueError: broken"),
        (f"{tmp_path / 'stopped'}:{root}", 130, ""),
    )
    for path, code, said in cases:
        done = subprocess.run(
            [sys.executable, "-m", "detcheck", "--version"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code and said in done.stdout + done.stderr
        assert code != 130 or not done.stderr, "a traceback is no answer to Ctrl-C"
