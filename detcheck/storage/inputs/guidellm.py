"""guidellm's report, `benchmarks.json`: one JSON document with several benchmarks.

| key | becomes |
|---|---|
| `prompt`, else the body in `request_args` | the request: ids are made up for each run |
| `benchmarks[].requests.successful[].output` | a sample each, with its `reasoning_output` and `tool_calls` |
| `benchmarks[].requests.errored[]` | a missing sample each, with its error |
| `benchmarks[].requests.incomplete[]` | nothing: the end of the benchmark cut them off |
| the strategy in `config` (of old versions in `args`) | the condition; the batch is not known |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detcheck.errors import UsageError
from detcheck.storage.input import Parsed, StoredAnswer, said, tool_calls, wanted

TEXT = (str, type(None))


def recognises(keys: Mapping[str, Any]) -> bool:
    return "benchmarks" in keys


def samples(parsed: Iterable[Parsed]) -> Iterator[StoredAnswer]:
    """Raises UsageError."""
    for document in parsed:
        benchmarks = wanted(document.keys.get("benchmarks"), list, "`benchmarks`", document.where)
        for number, benchmark in enumerate(benchmarks):
            where = f"{document.where}, benchmark {number + 1}"
            made = wanted(benchmark, dict, "a benchmark", where)
            requests = wanted(made.get("requests"), dict, "`requests`", where)
            for status in ("successful", "errored"):
                for place, request in enumerate(wanted(requests.get(status, []), list, f"`{status}`", where)):
                    at = f"{where}, {status} request {place + 1}"
                    yield sample(
                        wanted(request, dict, "a request", at), status == "errored", number, strategy(made), at
                    )


def sample(request: Mapping[str, Any], failed: bool, trial: int, condition: str, where: str) -> StoredAnswer:
    info = wanted(request.get("info") or {}, dict, "`info`", where)
    parts = [wanted(request.get(key), TEXT, f"`{key}`", where) for key in ("output", "reasoning_output")]
    if not failed and "output" not in request:
        raise UsageError(f"{where}: wants `output`, the text that came")
    error = str(request.get("error") or info.get("error") or "errored") if failed else ""
    text = said(*(part or "" for part in parts), calls=tool_calls(request.get("tool_calls"), where))
    return StoredAnswer(
        where, asked(request, where), text=text, trial=trial, condition=condition, error=error, answered=True
    )


def asked(request: Mapping[str, Any], where: str) -> object:
    """The request, as far as the report holds it."""
    if isinstance(request.get("prompt"), str):
        return request["prompt"]
    said = request.get("request_args")
    if not isinstance(said, str):
        raise UsageError(
            f"{where}: wants `prompt` or `request_args`: which request this answers is not known. Let guidellm keep the arguments of all requests"
        )
    try:
        arguments = json.loads(said)
    except (ValueError, RecursionError):
        return said
    return (arguments.get("body") or arguments) if isinstance(arguments, dict) else said


def strategy(benchmark: Mapping[str, Any]) -> str:
    """ "synchronous", "concurrent-8", "constant-2.5"; "" where it is not told."""
    held = [benchmark.get(key) for key in ("config", "args")]
    found = next((h["strategy"] for h in held if isinstance(h, dict) and isinstance(h.get("strategy"), dict)), {})
    words = [found.get("type_"), found.get("streams", found.get("rate"))]
    return "-".join(str(word) for word in words if isinstance(word, str | int | float))
