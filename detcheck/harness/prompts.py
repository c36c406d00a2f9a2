"""The prompts that are asked: one by --prompt, or those of a file, one a line, or JSONL with `prompt` or `messages`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from detcheck.errors import UsageError
from detcheck.spec import Spec

DEFAULT_PROMPT = "Tell me about Richard Feynman"


@dataclass(frozen=True)
class Question:
    """A text, or the messages of a chat."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()

    @property
    def shown(self) -> str:
        return self.text or "\n".join(f"{m['role']}: {m['content']}" for m in self.messages)


def check(spec: Spec) -> None:
    """Raises UsageError where there can be no prompt, or no model, or no repeat."""
    own = spec.options
    if spec.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {spec.trials}")
    if own.prompt is not None and own.prompt_file is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    if own.prompt is not None and not own.prompt.strip():
        raise UsageError("--prompt is empty. Give it a text, or leave it out for the default prompt")
    if spec.model is not None and not spec.model.strip():
        raise UsageError("--model is empty. Give a folder or a hub id, or leave it out for the embedded amplifier")
    if own.prompt_file is not None and not Path(own.prompt_file).is_file():
        raise UsageError(f"--prompt-file {own.prompt_file}: no such file")


def asked(spec: Spec) -> list[Question]:
    """The prompts. Raises UsageError where the file cannot be read."""
    own = spec.options
    if own.prompt_file is not None:
        return read_prompts(Path(own.prompt_file))
    if own.prompt is None and spec.model is None and not getattr(own, "base_url", ()):
        from detcheck.models.amplifier import PROMPT

        return [Question(text=PROMPT)]
    return [Question(text=DEFAULT_PROMPT if own.prompt is None else own.prompt)]


def read_prompts(path: Path) -> list[Question]:
    """Blank lines are passed over. Raises UsageError with the line's number."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: cannot be read: {error}") from None
    jsonl = path.suffix in (".jsonl", ".json", ".ndjson")
    questions = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            questions.append(from_json(line, f"{path}, line {number}") if jsonl else Question(text=line.rstrip("\r")))
    if not questions:
        raise UsageError(
            f"--prompt-file {path}: there is no prompt in it. Write one a line, or JSONL with `prompt` or `messages`"
        )
    return questions


def from_json(line: str, where: str) -> Question:
    wants = 'wants {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); {wants}") from None
    match value:
        case {"prompt": str(text)} if text.strip():
            return Question(text=text)
        case {"messages": [*messages]} if messages and all(is_message(m) for m in messages):
            return Question(messages=tuple({"role": m["role"], "content": m["content"]} for m in messages))
        case _:
            raise UsageError(f"{where}: found {line[:60]!a}; {wants}")


def is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
