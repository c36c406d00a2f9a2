"""A server's answer to a completion request -> what can be compared, or the reason why it is not one. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detcheck.storage.input import PART, UNFINISHED, called

NAMED_ID = re.compile(r"token_id:(\d+)")  # vLLM's spelling of a token, where ids are asked for
NO_LOGPROB = -9999.0  # servers say this for a log-probability that they do not have
SHOWN = 120  # characters of an error
LARGEST = 1e30  # of a log-probability's size
DIGITS = 9  # that no number has which was rounded for people


@dataclass(frozen=True)
class ServerAnswer:
    """What an answer holds. What the server does not give is None."""

    text: str
    finish_reason: str
    model: str
    id: str
    """the answer's own name; "" where it has none"""
    tokens: tuple[int, ...] | None = None
    words: tuple[str, ...] | None = None
    """the tokens, spelled"""
    logprobs: tuple[float, ...] | None = None
    margins: tuple[float, ...] | None = None
    runners_up: tuple[int, ...] | None = None
    prompt_tokens: tuple[int, ...] | None = None
    made: int | None = None
    """tokens that the server says it made"""
    asked: int | None = None
    """tokens that it says the prompt has"""
    cached: int | None = None
    """of these, how many it says it found in its prefix cache"""
    total: int | None = None
    """tokens that it says the prompt and all that was made have: hidden thoughts, which some leave out of `made`, are among them"""
    beside: str = ""
    """what it says beside its text: reasoning, a refusal, the tools that it calls; "" where there is nothing"""
    calls_tools: bool = False
    """whether it calls tools, which its text does not hold"""
    fingerprint: str = ""
    resent: int = 0
    """times it had to be asked for again, since the server was busy"""

    @property
    def whole(self) -> str:
        """All that it says, as one text."""
        return self.beside + PART + self.text if self.beside else self.text

    @property
    def length(self) -> int | None:
        """Tokens that were made: as it says, or as many as it gives; None where it does neither."""
        given = self.tokens if self.tokens is not None else self.words
        beyond = None if self.total is None or self.asked is None else max(0, self.total - self.asked)
        known = [n for n in (self.made, beyond, None if given is None else len(given)) if n is not None]
        return max(known, default=None)

    @property
    def lacking(self) -> int:
        """Tokens that it says it made, and of which it gives no id."""
        return max(0, (self.made or 0) - len(self.tokens or ()))

    @property
    def exact(self) -> bool:
        """Whether every log-probability is the decimal form of one float32: then its bits are known."""
        numbers = np.asarray(self.logprobs or (), np.float64)
        numbers = numbers[~np.isnan(numbers)]  # JSON has one NaN
        # Short decimals like 0.0 or -0.5 are float32 numbers too, and could as well be rounded ones.
        long = any(len(repr(value).lstrip("-0.").replace(".", "")) > DIGITS for value in self.logprobs or ())
        return long and bool((numbers.astype(np.float32).astype(np.float64) == numbers).all())


class BadAnswerError(Exception):
    """Not an answer to what was asked. The text is the reason."""


def read(body: Any, trial: bool = False) -> ServerAnswer:
    """Of /v1/completions or /v1/chat/completions. `trial`: it may be too short for a text. Raises BadAnswerError."""
    if not isinstance(body, Mapping):
        raise BadAnswerError("the answer is not a JSON object")
    if why := error_in(body):
        raise BadAnswerError(f"it has status 200 and an error in it: {why!r}")
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        found = f"{len(choices)} choices" if isinstance(choices, list) else "no choices"
        raise BadAnswerError(f"the answer has {found}, and one was asked for")
    if not isinstance(choices[0], Mapping):
        raise BadAnswerError("the answer's choice is not a JSON object")
    if why := error_in(choices[0]):
        raise BadAnswerError(f"it has status 200 and an error in its choice: {why!r}")
    choice = choices[0]
    message = choice.get("message")
    text = choice.get("text") if message is None else message.get("content") if isinstance(message, Mapping) else None
    if text is None and isinstance(message, Mapping) and "content" in message:
        text = ""  # a message without content is one of no tokens
    if not isinstance(text, str):
        raise BadAnswerError("the answer has no text")
    reason = choice.get("finish_reason")
    if not reason or reason in UNFINISHED or not isinstance(reason, str):
        raise BadAnswerError(f"the completion is not finished: finish reason {str(reason)[:40]!r}")
    if not reason.isprintable() or len(reason) > 40:
        raise BadAnswerError(f"the finish reason is none: {reason[:40]!r}")
    usage = body.get("usage")
    made = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    said = ServerAnswer(
        text,
        reason,
        str(body.get("model") or ""),
        str(body.get("id") or ""),
        ids(choice["token_ids"], "token ids") if choice.get("token_ids") is not None else None,
        prompt_tokens=some_ids(choice.get("prompt_token_ids")) or some_ids(body.get("prompt_token_ids")),
        made=made if type(made) is int else None,
        asked=count(usage, "prompt_tokens"),
        cached=count(usage, "prompt_tokens_details", "cached_tokens"),
        total=count(usage, "total_tokens"),
        beside=beside(message) if isinstance(message, Mapping) else "",
        calls_tools=bool(isinstance(message, Mapping) and message.get("tool_calls")),
        fingerprint=str(body.get("system_fingerprint") or ""),
    )
    said = with_logprobs(said, choice.get("logprobs"))
    counted = said.tokens if said.tokens is not None else said.words
    if counted is not None and said.text and not counted:
        raise BadAnswerError("the answer has a text and no tokens")
    if said.tokens is not None and said.words is not None and len(said.tokens) != len(said.words):
        raise BadAnswerError(f"the answer has {len(said.tokens)} token ids and {len(said.words)} tokens")
    if reason == "length" and not said.whole and not counted and not trial:
        raise BadAnswerError("the answer is empty, and says that it is as long as was asked for")
    if choice.get("token_ids") is not None and said.lacking > (
        reason != "length"
    ):  # the token that ended it may be left out
        raise BadAnswerError(
            f"the answer has {len(said.tokens or ())} tokens, and its usage says that {said.made} were made"
        )
    return said


def error_in(found: Mapping[str, Any]) -> str:
    """What an error object beside or in the place of an answer says; "" where there is none, or one that says there is none."""
    error = found.get("error")
    if isinstance(error, Mapping):
        none = not any(error.values()) or str(error.get("code")) == "0"  # a proxy's {"code": 0, "message": "Success"}
        error = "" if none else error.get("message") or error
    return " ".join(str(error).split())[:SHOWN] if error else ""


def beside(message: Mapping[str, Any]) -> str:
    """What a chat's message says beside its content. Ids of tool calls are made up each time and left out."""
    calls = message.get("tool_calls") if isinstance(message.get("tool_calls"), list) else []
    functions = [called(call) for call in calls if isinstance(call, Mapping)]
    thought = message.get("reasoning") or message.get("reasoning_content")
    parts = [thought, message.get("refusal"), *functions, message.get("function_call")]
    return PART.join(part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in parts if part)


def count(value: Any, *names: str) -> int | None:
    """What stands under these names, one inside the other, where it is a number of tokens."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if type(value) is int and 0 <= value < 2**31 else None


def some_ids(value: Any) -> tuple[int, ...] | None:
    """A list of token ids, or None."""
    if isinstance(value, list) and all(type(v) is int and 0 <= v < 2**31 for v in value):
        return tuple(value)
    return None


def ids(value: Any, what: str) -> tuple[int, ...]:
    """Raises BadAnswerError where it is no list of token ids."""
    found = some_ids(value)
    if found is None:
        raise BadAnswerError(f"the {what} are none: {str(value)[:40]!r}")
    return found


def with_logprobs(said: ServerAnswer, logprobs: Any) -> ServerAnswer:
    """Both forms: lists side by side, or an entry a token. Raises BadAnswerError for one that is half there."""
    if not isinstance(logprobs, Mapping):
        return said
    if isinstance(entries := logprobs.get("content"), list):
        if not all(isinstance(e, Mapping) and isinstance(e.get("token"), str) for e in entries):
            raise BadAnswerError("its log-probabilities name no tokens")
        words = [e["token"] for e in entries]
        own = [e.get("logprob") for e in entries]
        tops = [
            [(t.get("token"), t.get("logprob")) for t in e.get("top_logprobs") or () if isinstance(t, Mapping)]
            for e in entries
            if isinstance(e.get("top_logprobs") or [], list)
        ]
        named = some_ids([e.get("id") for e in entries])
    elif isinstance(words := logprobs.get("tokens"), list):
        if not all(isinstance(w, str) for w in words):
            raise BadAnswerError("its log-probabilities name no tokens")
        own = logprobs.get("token_logprobs")
        listed = logprobs.get("top_logprobs")
        tops = [list(t.items()) if isinstance(t, Mapping) else [] for t in listed] if isinstance(listed, list) else []
        named = None
    else:
        return said
    if words and all(NAMED_ID.fullmatch(w) for w in words):
        named, words = ids([int(NAMED_ID.fullmatch(w)[1][:20]) for w in words], "names of tokens"), None
        if said.tokens is not None and said.tokens != named:
            raise BadAnswerError("its token ids are not those that its log-probabilities name")
    said = replace(said, tokens=named if said.tokens is None else said.tokens, words=words and tuple(words))
    if own is None:
        return said
    count = len(own) if isinstance(own, list) else 0
    if count != len(words if words is not None else said.tokens or ()):
        raise BadAnswerError(f"{count} log-probabilities for {len(words or said.tokens or ())} tokens")
    for place, value in enumerate(own):
        if not (is_number(value) or value != value):  # NaN is what a model that overflows gives, and is compared
            raise BadAnswerError(f"the log-probability of token {place} is {str(value)[:20]!r}, not a number")
        if value == NO_LOGPROB:
            raise BadAnswerError(
                f"the log-probability of token {place} is {value:g}, which stands for one that is not known"
            )
    margins, others = runners_up(words, said.tokens, own, tops)
    return replace(said, logprobs=tuple(map(float, own)), margins=margins, runners_up=others)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def runners_up(
    words: Sequence[str] | None, tokens: Sequence[int] | None, own: Sequence[float], tops: Sequence[Any]
) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None]:
    """(how far the runner-up of each token was behind, its id), where the server gives two candidates a token."""
    if len(tops) != len(own):
        return None, None
    margins, others = [], []
    for place, (value, candidates) in enumerate(zip(own, tops, strict=True)):
        name = words[place] if words is not None else f"token_id:{tokens[place]}"
        rest = [(lp, w) for w, lp in candidates if isinstance(w, str) and w != name and is_number(lp)]
        best = max(rest, default=(float("nan"), ""))
        margins.append(float(value - best[0]))
        found = NAMED_ID.fullmatch(best[1])
        others.append(int(found[1]) if found and len(found[1]) < 11 else -1)
    return tuple(margins), tuple(others)
