"""What lm-evaluation-harness writes with `--log_samples`: JSONL (of old versions one JSON list), one document a line.

| key | becomes |
|---|---|
| `doc_id` | the request's name in reports |
| `arguments` | the request: what the model was asked, with the options of generation |
| `resps` | of generated text a sample a repeat; of log-likelihoods one sample a repeat, whose tokens are the choices |
| `filter` | nothing: a document that is written once a filter is read once |

`arguments` is a list of lists, or since 2024 an object: `{"gen_args_0": {"arg_0": ...}}`. Log-likelihoods are numbers, or since then
strings of them, which name the same float64.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detcheck.errors import UsageError
from detcheck.hashes import content_hash
from detcheck.storage.input import Parsed, StoredAnswer, shown, wanted

WHOLE = "the whole text"  # the only "choice" of a request whose text is scored by itself


def recognises(keys: Mapping[str, Any]) -> bool:
    return "arguments" in keys and "resps" in keys


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    filters: dict[str, object] = {}  # request -> the filter that it was met with first
    answered_so: set[str] = set()  # request and answers, met with that filter
    for line in parsed:
        where = line.where
        asked = arguments(line.keys.get("arguments"), where)
        answered = wanted(line.keys.get("resps"), list, "`resps`", where)
        if len(asked) != len(answered) or not asked:
            raise UsageError(
                f"{where}: `resps` has {len(answered)} answers to {len(asked)} requests in `arguments`; give one each"
            )
        document = line.keys.get("doc_id", "")
        key = content_hash(json.dumps([document, asked], sort_keys=True).encode())
        this = content_hash(key.encode(), json.dumps(answered).encode())
        if filters.setdefault(key, line.keys.get("filter")) == line.keys.get("filter"):
            answered_so.add(this)
        elif this in answered_so:  # the same sample, written once more
            continue
        answers = [wanted(answer, list, "an answer in `resps`", where) for answer in answered]
        name = f"doc-{document}:{key[:8]}"
        if not all(answers):
            yield StoredAnswer(where, [document, asked], name, error="no answer in `resps`")
            continue
        # What follows the prompt: options of generation, or a text to be scored; where nothing does, the prompt itself is scored.
        if not any(len(words) > 1 and isinstance(words[1], dict) for words in asked):
            yield from scored(asked, answers, document, name, where)
            continue
        for place, (words, answer) in enumerate(zip(asked, answers, strict=True)):
            one = name + (f".{place}" if len(asked) > 1 else "")
            for text in answer:
                yield StoredAnswer(
                    where,
                    [document, place, words],
                    one,
                    text=wanted(text, str, "generated text in `resps`", where),
                    answered=True,
                )


def arguments(found: object, where: str) -> list[Sequence[object]]:
    """What was asked, a request each."""
    if isinstance(found, dict):
        found = [ordered(found[key]) for key in sorted(found, key=number)]
    requests = [ordered(one) for one in wanted(found, list, "`arguments`", where)]
    return [wanted(one, list, "a request in `arguments`", where) for one in requests]


def ordered(one: object) -> object:
    """The values of `{"arg_0": ..., "arg_1": ...}` as a list."""
    return [one[key] for key in sorted(one, key=number)] if isinstance(one, dict) else one


def number(key: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", key)
    return int(digits[0]) if digits else -1, key


def scored(
    asked: Sequence[Sequence[object]], answers: Sequence[Sequence[object]], document: object, name: str, where: str
) -> Iterator[StoredAnswer]:
    """Log-likelihoods: the choices of one document are one sample."""
    choices = [str(words[1]) if len(words) > 1 else WHOLE for words in asked]
    if len({len(answer) for answer in answers}) > 1:
        raise UsageError(f"{where}: `resps` has unequal numbers of repeats for the choices of one document")
    for repeat in zip(*answers, strict=True):
        found = [likelihood(answer, where) for answer in repeat]
        spelled = [choice + (" (greedy)" if greedy else "") for choice, (_, greedy) in zip(choices, found, strict=True)]
        numbers = [value for value, _ in found]
        text = "; ".join(f"{word} {value!r}" for word, value in zip(spelled, numbers, strict=True))
        yield StoredAnswer(where, [document, asked], name, spelled, text, numbers, unit="choice")


def likelihood(answer: object, where: str) -> tuple[float, bool]:
    """(log-likelihood, whether greedy decoding gives that text) of [number, bool], or of a number alone, each perhaps as a string."""
    value, greedy = (*answer, False)[:2] if isinstance(answer, list) and answer else (answer, False)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if type(value) not in (int, float) or str(greedy) not in ("True", "False"):
        raise UsageError(f"{where}: `resps` wants log-likelihoods, like [-1.5, true]; found {shown(answer)}")
    return value, str(greedy) == "True"
