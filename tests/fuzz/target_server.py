"""`completions --base-url` against a server of which one answer, its list of models, its metrics or its headers are changed.

What it sends goes through httpx's own transport for tests, so all of our client but the sockets runs: status, headers, compression, JSON. The
oracle compares the changed answer with the right one: where it is not the same completion, or none, the run is no pass.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import misbehaving
import numpy as np
from fuzzing import Files, Target, WrongPassError, asked, changed, encoded, raised, torn, written
from hypothesis import strategies as st

from detcheck import runner, stderr
from detcheck.engines.server import client, sampler, send
from detcheck.outcomes import outcome
from detcheck.probes.completions.options import Options
from detcheck.spec import Spec
from detcheck.verdict import Verdict

MADE, SAMPLES = 8, 4
METRICS = "\n".join(
    f'{name}{{engine="0"}} {value}'
    for name, value in {
        "vllm:num_requests_running": 1, "vllm:request_success_total": "N", "vllm:generation_tokens_total": "T",
        "vllm:iteration_tokens_total_count": "T", "vllm:prefix_cache_hits_total": 0, 'detcheck_kernel_calls_total': 3,
    }.items()
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {}, {"content-encoding": "gzip"}, {"content-encoding": "deflate"}, {"content-encoding": "br, gzip"}, {"content-type": "text/html; charset=utf-16"},
    {"retry-after": "0"}, {"retry-after": "1e9"}, {"retry-after": "-1"}, {"retry-after": "99999999"}, {"location": "http://127.0.0.1:1/"}, {"content-type": "\x7f"},
    {"x": "y" * 70_000}, {"content-length": "3"}, {"transfer-encoding": "chunked"},
)  # fmt: skip
BESIDE = (
    {"reasoning_content": "hm"}, {"reasoning": "hm"}, {"refusal": "no"}, {"function_call": {"name": "f", "arguments": "{}"}},
    {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"tool_calls": [{"custom": {"name": "f", "input": ""}}]}, {"tool_calls": [3]},
)  # fmt: skip


def server(chat: bool) -> SimpleNamespace:
    return SimpleNamespace(ids=not chat, logprobs=True, model="m", scores=False, draws=True, round_to=None)


@st.composite
def exchanges(draw: st.DrawFn) -> Files:
    chat = draw(st.booleans())
    prompt = {"messages": [{"role": "user", "content": "p"}]} if chat else {"prompt": "p"}
    body = prompt | {"max_tokens": MADE, "logprobs": True, "return_token_ids": True}
    answer = misbehaving.completion(server(chat), body, 99, flip=draw(st.booleans()))
    if chat and draw(st.booleans()):
        answer["choices"][0]["message"] |= draw(st.sampled_from(BESIDE))
    raw = draw(torn(draw(encoded(written(draw(changed(answer))))), 6))
    headers = draw(st.sampled_from(HEADERS)) if draw(st.integers(0, 3)) == 0 else {}
    if headers.get("content-encoding") and draw(st.booleans()):
        raw = zlib.compress(raw * draw(st.sampled_from((1, 200_000))), 9)
    status = draw(st.sampled_from((200, 200, 200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 503)))
    models = draw(encoded(written(draw(changed({"data": [{"id": "m"}]}, 1)))))
    metrics = METRICS
    for _ in range(draw(st.integers(0, 2))):
        old = draw(st.sampled_from((" 1", " 0", "N", "T", '{engine="0"}', "vllm:num_requests_running", "\n")))
        metrics = metrics.replace(
            old,
            draw(
                st.sampled_from(
                    (" NaN", " -1", " 1e999", " 9" * 30, "", '{engine="', "\x00", " 3", "0 0 0", '{op="\\"}', "\r")
                )
            ),
        )
    plan = {
        "chat": chat,
        "status": status,
        "headers": headers,
        "at": draw(st.integers(0, SAMPLES - 1)),
        "metrics": draw(st.booleans()),
    }
    return {
        "answer.json": raw,
        "models.json": models,
        "metrics.txt": draw(torn(metrics.encode(), 5)),
        "asked.json": json.dumps(plan).encode(),
    }


def check(folder: Path) -> None:
    plan = json.loads((folder / "asked.json").read_text())
    raw, seen = (folder / "answer.json").read_bytes(), []
    handler = answering(
        plan, raw, (folder / "models.json").read_bytes(), (folder / "metrics.txt").read_text("utf-8", "replace"), seen
    )
    own = Options(
        samples=SAMPLES,
        max_tokens=MADE,
        prompt="p",
        chat=plan["chat"],
        base_url=("http://127.0.0.1:9",),
        timeout=2.0,
        conditions=("alone", "wave-2"),
        allow_unseen_batch=True,
    )
    with (
        quick(),
        mock.patch.object(stderr, "trace", raised),
        mock.patch.object(client.Client, "_take", lambda *_: taken(handler)),
    ):
        run = asked(lambda: runner.run(Spec("completions", own), "runs"))
    if run is None or run.verdict is not Verdict.IDENTICAL or len(seen) <= plan["at"]:
        return
    if plan["status"] in (429, 503) and "retry-after" in plan["headers"]:
        return  # it was sent again, and came well
    if plan["headers"]:
        return
    try:
        came = completion(json.loads(raw))
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no answer
        raise WrongPassError(
            f"an answer cannot be read ({type(error).__name__}: {error}), and the run passes"
        ) from None
    if plan["status"] != 200 or came != completion(json.loads(seen[0 if plan["at"] else 1])):
        raise WrongPassError(f"one of {len(seen)} answers is another, and the run passes: {came}")


def completion(body: dict[str, Any]) -> str:
    """All that says what was completed."""
    (choice,) = body["choices"]
    message, logprobs = choice.get("message"), choice.get("logprobs") or {}
    said = [choice["text"] if message is None else message["content"], choice["finish_reason"], choice.get("token_ids")]
    if message:
        said.append(
            [
                message.get(k)
                for k in ("tool_calls", "refusal", "reasoning", "reasoning_content", "function_call")
                if message.get(k)
            ]
        )
    entries = logprobs.get("content")
    words = [e["token"] for e in entries] if entries else logprobs.get("tokens")
    numbers = [e["logprob"] for e in entries] if entries else logprobs.get("token_logprobs")
    return json.dumps([*said, words, [struct.pack("<d", v).hex() for v in numbers or ()]])


def answering(
    plan: dict[str, Any], raw: bytes, models: bytes, metrics: str, seen: list[bytes]
) -> Callable[[httpx.Request], httpx.Response]:
    """A server: a sample's answer, of the place in `plan`, is `raw`. `seen`: what it gave to samples."""
    made = [0]

    def handler(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/models":
            return httpx.Response(200, content=models)
        if path == "/metrics" and plan["metrics"]:
            return httpx.Response(200, text=metrics.replace("N", str(made[0])).replace("T", str(made[0] * MADE)))
        if not path.startswith("/v1/"):
            return httpx.Response(404, json={"error": "not found"})
        body = json.loads(request.content)
        made[0] += 1
        sample = body["max_tokens"] == MADE and (body.get("prompt") or body["messages"][0]["content"]) == "p"
        if sample and len(seen) == plan["at"]:
            seen.append(raw)
            return httpx.Response(plan["status"], content=raw, headers=plan["headers"])
        answer = json.dumps(misbehaving.completion(server(plan["chat"]), body, made[0])).encode()
        if sample:
            seen.append(answer)
        return httpx.Response(200, content=answer)

    return handler


def taken(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(handler), follow_redirects=False)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Nothing is waited for."""
    with contextlib.ExitStack() as held:
        for name in ("LATE_S", "SETTLE_S", "SOON_S", "POLL_S"):
            held.enter_context(mock.patch.object(send, name, 0.001))
        held.enter_context(mock.patch.object(client, "WAIT_S", 0.0))
        yield


def blind(said: object, *_: object) -> tuple:
    """A planted fault: every answer is read as the same."""
    return outcome(np.asarray([1]), text="same"), ""


TARGETS = (Target("server", exchanges(), check, (sampler, "outcome_of", blind), 60),)
