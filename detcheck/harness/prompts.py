"""Prompts from a file: one a line, or JSONL with `prompt` or `messages`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from detcheck.errors import UsageError


@dataclass(frozen=True)
class Question:
    """A text, or the messages of a chat."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()

    @property
    def shown(self) -> str:
        return self.text or "\n".join(f"{m['role']}: {m['content']}" for m in self.messages)


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
