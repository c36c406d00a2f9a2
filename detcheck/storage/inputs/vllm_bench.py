"""Results of `vllm bench serve --save-result --save-detailed` (once `benchmark_serving.py`) and of SGLang's `bench_serving
--output-details`, which has the same keys: one JSON object a benchmark, several in a file where results were appended.

| key | becomes |
|---|---|
| place in `generated_texts`, with `input_lens` | the request: the prompts are not in the file, so benchmarks of one dataset and seed are asked for |
| `generated_texts[]` | a sample each |
| `errors[]` | why a sample is missing |
| `max_concurrency`, else `request_rate` | the condition; the batch is not known |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detcheck.errors import UsageError
from detcheck.storage.input import Parsed, StoredAnswer, wanted


def recognises(keys: Mapping[str, Any]) -> bool:
    return "generated_texts" in keys or ("completed" in keys and "request_throughput" in keys)


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    for trial, line in enumerate(parsed):
        where, keys = line.where, line.keys
        if "generated_texts" not in keys:
            raise UsageError(
                f"{where}: the result holds no `generated_texts`. Run the benchmark again with --save-detailed (SGLang: --output-details)"
            )
        texts = wanted(keys["generated_texts"], list, "`generated_texts`", where)
        errors, lengths = (column(keys, name, len(texts), where) for name in ("errors", "input_lens"))
        for place, (text, error, length) in enumerate(zip(texts, errors, lengths, strict=True)):
            at = f"{where}, request {place}"
            name = f"request-{place}" + ("" if length is None else f":{wanted(length, int, '`input_lens`', at)}-tokens")
            yield StoredAnswer(
                at,
                name,
                name,
                text=wanted(text, str, "`generated_texts`", at),
                trial=trial,
                condition=condition(keys),
                error=last_line(wanted(error or "", str, "`errors`", at)),
            )


def column(keys: Mapping[str, Any], name: str, length: int, where: str) -> list[Any]:
    """As many values as there are texts."""
    values = wanted(keys.get(name, [None] * length), list, f"`{name}`", where)
    if len(values) != length:
        raise UsageError(f"{where}: `{name}` has {len(values)} entries for {length} `generated_texts`; give one each")
    return values


def condition(keys: Mapping[str, Any]) -> str:
    for key, word in (("max_concurrency", "concurrency"), ("request_rate", "rate")):
        if isinstance(keys.get(key), str | int | float):
            return f"{word}-{keys[key]}"
    return ""


def last_line(error: str) -> str:
    """Of a traceback what was raised."""
    lines = error.strip().splitlines()
    return lines[-1] if lines else ""
