"""The output file of OpenAI's Batch API, which `vllm run-batch` and others write too: JSONL, one request a line.

| key | becomes |
|---|---|
| `custom_id` | the request |
| `response.body.choices[]` | a sample each: of a chat its reasoning, content, refusal and tool calls, else its `text` |
| a choice's `logprobs` | tokens and log-probabilities |
| `error`, `response.status_code` | why the sample is missing |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detcheck.errors import UsageError
from detcheck.storage.input import PART, Parsed, StoredAnswer, listed, of_message, said, wanted

WORDS_OF_A_CHAT = ("reasoning", "reasoning_content", "content", "refusal", "tool_calls", "function_call")


def recognises(keys: Mapping[str, Any]) -> bool:
    return "custom_id" in keys and ("response" in keys or "error" in keys)


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    for line in parsed:
        where = line.where
        name = wanted(line.keys.get("custom_id"), str, "`custom_id`", where)
        response = wanted(line.keys.get("response"), (dict, type(None)), "`response`", where) or {}
        if why := trouble(line.keys.get("error"), response):
            yield StoredAnswer(where, name, name, error=why)
            continue
        body = wanted(response.get("body"), dict, "`response.body`", where)
        if "choices" not in body:
            raise UsageError(
                f"{where}: `response.body` wants `choices`, as answers of chats and completions have; found the keys {listed(body)}"
            )
        choices = wanted(body["choices"], list, "`choices`", where)
        if not choices:
            yield StoredAnswer(where, name, name, error="no choices")
        for choice in choices:
            yield sample(wanted(choice, dict, "a choice", where), name, where)


def trouble(error: object, response: Mapping[str, Any]) -> str:
    """Why a request has no answer; "" where it has one."""
    status, body = response.get("status_code", 200), response.get("body")
    if error is None and isinstance(body, dict):
        error = body.get("error")
    if error is None and status == 200:
        return "" if response else "no response"
    if isinstance(error, dict):
        error = ": ".join(str(error[key]) for key in ("code", "message") if error.get(key) is not None) or "error"
    return ": ".join(word for word in ("" if status == 200 else f"HTTP {status}", str(error or "")) if word)


def sample(choice: Mapping[str, Any], name: str, where: str) -> StoredAnswer:
    message = wanted(choice.get("message"), (dict, type(None)), "`message`", where)
    text = of_chat(message, where) if message is not None else wanted(choice.get("text"), str, "`text`", where)
    tokens, numbers = spelled(wanted(choice.get("logprobs"), (dict, type(None)), "`logprobs`", where), where)
    if isinstance(tokens, list) and "".join(map(str, tokens)) != text:
        # What a tool call or a refusal says is not among the tokens, so it is compared behind them.
        tokens, numbers = [*tokens, text], [*numbers, None] if isinstance(numbers, list) else numbers
    reason = choice.get("finish_reason")
    return StoredAnswer(where, name, name, tokens, text, numbers, finish_reason=reason, answered=True)


def of_chat(message: Mapping[str, Any], where: str) -> str:
    if not any(key in message for key in WORDS_OF_A_CHAT):
        raise UsageError(f"{where}: `message` wants `content`; found the keys {listed(message)}")
    return said(*of_message(message, where))


def spelled(logprobs: Mapping[str, Any] | None, where: str) -> tuple[list[object] | None, list[object] | None]:
    """(tokens, log-probabilities) of a chat, or of a completion; None where there are none."""
    if logprobs is None:
        return None, None
    if "tokens" in logprobs:
        return logprobs["tokens"], logprobs.get("token_logprobs")
    if logprobs.get("content") is None:
        return None, None
    entries = [
        wanted(entry, dict, "an entry of `logprobs`", where)
        for entry in wanted(logprobs["content"], list, "`logprobs`", where)
    ]
    return [word(entry) for entry in entries], [entry.get("logprob") for entry in entries]


def word(entry: Mapping[str, Any]) -> object:
    """A token as it is spelled; with its bytes, where these are a part of a letter and the spelling only says so."""
    token, held = entry.get("token"), entry.get("bytes")
    if isinstance(token, str) and "\ufffd" in token and isinstance(held, list):
        return f"{token}{PART}{held}"
    return token
