"""The prompts that are asked: one by --prompt, or those of a file, one a line, or JSONL with `prompt` or `messages`."""

from __future__ import annotations

from pathlib import Path

from detcheck import strict_json
from detcheck.engine import Question
from detcheck.errors import UsageError
from detcheck.harness import engines
from detcheck.harness.conversations import conversation
from detcheck.spec import Spec

DEFAULT_PROMPT = "Tell me about Richard Feynman"
JSONL = (".jsonl", ".json", ".ndjson")
# For engines that keep a prefix cache: more tokens than a block of it holds (16 on most devices, 128 in vLLM on a CPU).
LONG_PROMPT = (
    "Tell me about Richard Feynman. Begin with the boy in Far Rockaway who repaired radios by thinking about them, and whose father taught "
    "him that the name of a bird says nothing about the bird. Go on with the student at MIT and at Princeton, with the young man at Los Alamos "
    "who opened his colleagues' safes and wrote letters to Arline, and with the professor at Cornell who watched a plate wobble in the "
    "cafeteria and began to calculate for fun again. Explain in plain words what a path integral is, what his diagrams show, and why two "
    "other people, Schwinger and Tomonaga, shared the prize with him. Say a little about the lectures, the bongo drums, the drawings, and the "
    "trip to Tuva that he planned and did not live to make. Then come to the glass of ice water in front of the commission on the Challenger "
    "accident, and to the sentence with which he ended his report: that nature cannot be fooled. Close with what a person who measures things "
    "for a living can learn from him."
)


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
    if getattr(own, "turns", False) and Path(own.prompt_file or "").suffix not in JSONL:
        raise UsageError(
            "--turns is about conversations: give them with --prompt-file, a .jsonl with `messages` on each line"
        )


def asked(spec: Spec) -> list[Question]:
    """The prompts. Raises UsageError where the file cannot be read."""
    own = spec.options
    if own.prompt_file is not None:
        return read_prompts(Path(own.prompt_file), getattr(own, "turns", False))
    if own.prompt is None and spec.model is None and not getattr(own, "base_url", ()):
        from detcheck.models.amplifier import PROMPT

        return [Question(text=PROMPT)]
    if own.prompt is None:
        return [
            Question(LONG_PROMPT, shorter=DEFAULT_PROMPT) if engines.kind(spec).caches else Question(DEFAULT_PROMPT)
        ]
    return [Question(text=own.prompt)]


def read_prompts(path: Path, turns: bool = False) -> list[Question]:
    """Blank lines are passed over. `turns`: each line is a conversation. Raises UsageError with the line's number."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: cannot be read: {error}") from None
    jsonl = path.suffix in JSONL
    questions = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            questions.append(from_json(line, where, turns) if jsonl else Question(text=line.rstrip("\r")))
    if not questions:
        raise UsageError(
            f"--prompt-file {path}: there is no prompt in it. Write one a line, or JSONL with `prompt` or `messages`"
        )
    return questions


def from_json(line: str, where: str, turns: bool = False) -> Question:
    wants = 'wants {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
    try:
        value = strict_json.loads(line)
    except strict_json.TwiceError as error:
        raise UsageError(
            f"{where}: {str(error)[:60]!a} stands twice in one object, and readers differ in which of them they take. Leave one out"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); {wants}") from None
    if isinstance(value, dict) and isinstance(value.get("body"), dict):  # a request line of OpenAI's batches
        value = value["body"]
    if turns:
        return conversation(value, where)
    match value:
        case {"prompt": str(text)} | {"text": str(text)} | {"question": str(text)} if text.strip():
            return Question(text=text)
        case {"messages": [*messages]} if messages and all(is_message(m) for m in messages):
            return Question(messages=tuple({"role": m["role"], "content": m["content"]} for m in messages))
        case _:
            raise UsageError(f"{where}: found {line[:60]!a}; {wants}")


def is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
