"""Conversations whose user messages and tool results are scripted: JSONL with `messages`, cut where the model answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detcheck.engine import Question
from detcheck.errors import UsageError
from detcheck.text import article

WANTS = 'with --turns a line wants {"messages": [{"role": "user", "content": "..."}, ...]}'
KEPT = ("role", "content", "name", "tool_call_id")
"""what of a message is handed on: a call that somebody else's answer made is none of this model's"""


def conversation(value: Any, where: str) -> Question:
    """The model answers where an assistant message stands, which its own answer replaces, and at the end.

    Without assistant messages it answers each message of the user and each group of tool results. Raises UsageError.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("messages"), list):
        raise UsageError(f"{where}: found {str(value)[:60]!a}; {WANTS}")
    if value.get("tools"):
        raise UsageError(
            f"{where}: `tools` are not offered to the model, since nothing runs them. Leave them out, or describe them in the system message"
        )
    messages = [checked(message, where) for message in value["messages"]]
    if not messages or messages[0]["role"] == "assistant":
        raise UsageError(f"{where}: there is no message before the model's first answer; {WANTS}")
    first, *later = groups(messages)
    return Question(messages=first, later=tuple(later))


def groups(messages: Sequence[dict[str, str]]) -> Iterator[tuple[dict[str, str], ...]]:
    """The scripted messages before each answer. Two answers with nothing between them are one."""
    roles = [message["role"] for message in messages]
    held: list[dict[str, str]] = []
    for message, role, after in zip(messages, roles, [*roles[1:], ""], strict=True):
        if role != "assistant":
            held.append(message)
        answered = role == "assistant" if "assistant" in roles else role == "user" or (role == "tool" and after != role)
        if held and (answered or not after):
            yield tuple(held)
            held = []


def checked(message: Any, where: str) -> dict[str, str]:
    """The message, as far as it is handed on. Raises UsageError where it is none that can be scripted."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise UsageError(f"{where}: found {str(message)[:60]!a}, which has no role; {WANTS}")
    if role == "assistant":
        return {"role": role}
    text = plain(message.get("content"))
    if text is None:
        raise UsageError(
            f"{where}: the content of {article(f'{role[:20]!a}')} message is no text, but {str(message.get('content'))[:60]!a}. Only texts are sent"
        )
    return {name: message[name] for name in KEPT if isinstance(message.get(name), str)} | {"content": text}


def plain(content: Any) -> str | None:
    """A text, or the texts of a list of parts, a line each (as vLLM joins them); None for anything else, like an image."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    return "\n".join(parts) if parts and all(isinstance(part, str) for part in parts) else None
