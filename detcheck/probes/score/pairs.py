"""Prompts with what is to be scored behind them, cut into tokens as lm-evaluation-harness cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detcheck import strict_json
from detcheck.engine import Engine, Question
from detcheck.errors import UsageError
from detcheck.harness.model import OpenModel, Plan
from detcheck.hashes import content_hash
from detcheck.records import Prompt, Schedule, Subject
from detcheck.spec import Spec

MERGED = (
    "prompt {index}: with the continuation behind it the context's last tokens are others than alone; the last {given} of all tokens are scored, as "
    "lm-evaluation-harness does"
)
NO_TOKEN = (
    "prompt {index} ({context!a}): the continuation {continuation!a} adds no token to the {before} of the context. Give a longer one, or begin it "
    "with a space"
)
LONE_TOKEN = (
    "prompt {index} ({text!a}) has 1 token. An empty continuation asks for the prompt's own tokens from the second on: give a longer prompt, or a "
    "continuation"
)
WANTED = 'wants {"prompt": "...", "continuation": "..."}; an empty continuation asks for the prompt itself'


@dataclass(frozen=True)
class Pair(Question):
    """`text` is the context; with an empty continuation what is scored itself, from its second token on."""

    continuation: str = ""

    def cut(self) -> tuple[str, str]:
        """(context, continuation): spaces at the end of the context belong to what is scored, since tokens begin with theirs."""
        context = self.text.rstrip() if self.continuation else self.text
        return context, self.text[len(context) :] + self.continuation

    @property
    def shown(self) -> str:
        return self.text + self.continuation


def pairs(spec: Spec) -> list[Pair]:
    """What is asked. Raises UsageError where the file cannot be read."""
    own = spec.options
    if own.prompt_file is None:
        return [Pair(own.prompt, continuation=own.continuation)]
    path = Path(own.prompt_file)
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: cannot be read: {error}") from None
    found = [read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"--prompt-file {path}: there is nothing in it; a line {WANTED}")
    return found


def read(line: str, where: str) -> Pair:
    try:
        value = strict_json.loads(line)
    except strict_json.TwiceError as error:
        raise UsageError(
            f"{where}: {str(error)[:60]!a} stands twice in one object, and readers differ in which of them they take. Leave one out"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); {WANTED}") from None
    match value:
        case {"prompt": str(text), "continuation": str(continuation)} if text.strip():
            return Pair(text, continuation=continuation)
        case _:
            raise UsageError(f"{where}: found {line[:60]!a}; {WANTED}")


def no_token(index: int, context: str, continuation: str, before: int) -> str:
    return NO_TOKEN.format(index=index, context=context[:40], continuation=continuation[:40], before=before)


class PairedModel(OpenModel):
    """A model that is open, with its pairs as tokens. `given`: how many of them, at the end, are to be scored, by the prompt's name."""

    def __init__(self, spec: Spec, engine: Engine, max_tokens: int) -> None:
        super().__init__(spec, engine, max_tokens)
        self.given: dict[str, int] = {}
        self._seams: list[str] = []

    def open(
        self, questions: Sequence[Question], plan: Plan, planned: Schedule | None, known: Prompt | None = None
    ) -> Subject:
        subject = super().open(questions, plan, planned, known)
        if not self._seams:
            return subject
        flags = {**subject.environment.flags, "seam": "; ".join(self._seams)}
        return replace(subject, environment=replace(subject.environment, flags=flags))

    def _tokenize(self, index: int, question: Pair) -> Prompt:
        """Raises UsageError where nothing is left to be scored, or it does not fit."""
        context, continuation = question.cut()
        ids = self.engine.encode(context + continuation)
        before = self.engine.encode(context) if continuation else ids[:1]
        given = len(ids) - len(before)
        where = f"prompt {index} ({context[:40]!a})"
        if not before:
            raise UsageError(f"{where} has no tokens, so the continuation would follow nothing. Give it a text")
        if given < 1 and not continuation:
            raise UsageError(LONE_TOKEN.format(index=index, text=context[:40]))
        if given < 1:
            raise UsageError(no_token(index, context, continuation, len(before)))
        # Of transformers the last token is not fed; vLLM is fed all of them, and makes one more.
        needed = len(ids) + (1 if self.engine.schedules_itself else -1)
        if needed > self.engine.context:
            raise UsageError(
                f"{where} has {len(ids)} tokens with its continuation, which needs room for {needed}, and {self.engine.name} holds "
                f"{self.engine.context}. Shorten the context"
            )
        if ids[: len(before)] != before:
            self._seams.append(MERGED.format(index=index, given=given))
        digest = content_hash(np.asarray(ids, "<i8").tobytes(), np.asarray([given], "<i8").tobytes())
        name = f"{index}:{digest[:8]}"
        self.given[name] = given
        return Prompt(name, question.shown, tuple(ids))
