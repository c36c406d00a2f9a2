"""The zoo: subjects broken in a known way, each with the verdict that is right, and sound ones that must pass.

A file in `tests/zoo/` holds subjects and ends with `test_subject = visits(globals())`. A subject is a function: it sets up what is broken, asks
detcheck through its command line, and returns what it answered. Its docstring, one line, says what is broken: it is the row in docs/zoo.md.
"""

import contextlib
import dataclasses
import importlib
import json
import re
import shlex
from dataclasses import dataclass

import pytest

EXIT_CODES = {"usage error": 2, "interrupted": 130}  # where there is no report


@dataclass(frozen=True)
class Answer:
    command: str
    code: int
    verdict: str
    report: dict
    said: str
    """stdout and stderr, for whoever reads a failure"""


@dataclass(frozen=True)
class Subject:
    name: str
    title: str
    verdict: str
    code: int
    sound: bool
    says: str
    visit: object


class Zoo:
    """Asks detcheck in this process, in an empty folder."""

    def __init__(self, detcheck, monkeypatch, folder):
        self._detcheck, self.monkeypatch, self.folder = detcheck, monkeypatch, folder

    def ask(self, *arguments):
        """The command line, as a user types it; `--format json -q` are added."""
        arguments = [str(argument) for argument in arguments]
        result = self._detcheck(*arguments, "--format", "json", "-q")
        report = json.loads(result.out) if result.out.strip() else {}
        without = {code: name for name, code in EXIT_CODES.items()}
        verdict = report.get("verdict") or without.get(result.code, f"no report, exit code {result.code}")
        command = shlex.join(["detcheck", *(a.replace(str(self.folder), ".") for a in arguments)])
        command = re.sub(r"(127\.0\.0\.\d+):\d+", r"\1", command)  # ports are others each time
        command = re.sub(r"\d{8}T\d{6}Z-(\w+)(-\d+)?", r"TIME-\1", command)  # and so are times
        return Answer(command, result.code, verdict, report, f"{result.out[-6000:]}\n{result.err[-3000:]}")

    def asserts(self, function, rows=3, **how):
        """`detcheck.assert_batch_invariant` of a function of x[rows, 48], in the place of a command: what it raises is the answer."""
        import torch

        import detcheck

        command = f"assert_batch_invariant({function.__name__}, ...)"
        try:
            x = torch.randn(rows, 48, generator=torch.Generator().manual_seed(0))
            detcheck.assert_batch_invariant(function, (x,), **how)
        except ValueError as error:
            return Answer(command, 2, "usage error", {}, str(error))
        except AssertionError as error:
            verdict = "run-variant" if "is not deterministic" in str(error) else "batch-variant"
            return Answer(command, 1, verdict, {}, str(error))
        return Answer(command, 0, "identical", {}, "")

    def completions(self, engine, *arguments, samples=24, max_tokens=4):
        """`detcheck completions` of an engine whose answers we wrote (`scripted.Scripted`, `knowing.Forming`) in the place of transformers'; of one
        that schedules itself (`knowing.Scheduling`) in the place of vLLM's."""
        about = () if {"--prompt-file", "--prompt"} & {*map(str, arguments)} else ("--prompt", "ask me")
        named = ("--engine", "vllm") if engine.schedules_itself else ()
        with self.engine(engine):
            return self.ask("completions", "-n", samples, "--max-tokens", max_tokens, *about, *named, *arguments)

    def file(self, name, *lines):
        """A file in the folder, of lines that are text or JSON values: its name."""
        text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        (self.folder / name).write_text(text, "utf-8")
        return name

    @contextlib.contextmanager
    def engine(self, made):
        """Where transformers would open a model, or vLLM, this engine is taken."""
        name = "vllm" if made.schedules_itself else "transformers"
        options = importlib.import_module(f"detcheck.engines.{name}.options")
        with self.monkeypatch.context() as patch:
            patch.setattr(options, "ENGINE", dataclasses.replace(options.ENGINE, open=lambda spec: made))
            yield


def broken(verdict, code=1, says=""):
    """Of a subject: the verdict that is right, its exit code, and words that the report must hold."""
    assert code != 0, "a broken subject never passes"
    return lambda visit: declared(visit, verdict, code, False, says)


def sound(visit):
    """Of a subject that must pass: `@sound`, or `@sound("certified")` where passing has another name."""
    if isinstance(visit, str):
        return lambda function: declared(function, visit, 0, True, "")
    return declared(visit, "identical", 0, True, "")


def declared(visit, verdict, code, is_sound, says):
    title = visit.__doc__.strip()
    assert "\n" not in title, f"{visit.__name__}: one line, please"
    return Subject(visit.__name__, title, verdict, code, is_sound, says, visit)


def visits(names):
    """The test of all subjects of a module: `globals()` -> a test function."""
    subjects = [thing for thing in names.values() if isinstance(thing, Subject)]

    @pytest.mark.parametrize("subject", subjects, ids=[subject.name for subject in subjects])
    def test_subject(subject, zoo, record_property):
        answer = subject.visit(zoo)
        record_property("subject", [subject.title, subject.sound, subject.verdict, subject.code])
        record_property("answer", [answer.command, answer.verdict, answer.code])
        assert (answer.verdict, answer.code) == (subject.verdict, subject.code), answer.said
        assert subject.says in json.dumps(answer.report, ensure_ascii=False) + answer.said, answer.said

    return test_subject
