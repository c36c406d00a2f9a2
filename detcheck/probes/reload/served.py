"""A server whose weights are updated through its own endpoints, and another one that was started with the new weights.

vLLM's are those of VLLM_SERVER_DEV_MODE=1. SGLang's request is written by its documentation.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.engines.server import metrics
from detcheck.engines.server.answer import BadAnswerError
from detcheck.engines.server.client import Client, NoAnswerError
from detcheck.engines.server.credentials import Secrets, Url
from detcheck.engines.server.engine import Budget, Capability, PromptInput, Server
from detcheck.engines.server.outcome import EarlierAnswers, outcome_of
from detcheck.environment import observe_client
from detcheck.errors import FailedError, UsageError
from detcheck.harness import prompts
from detcheck.hashes import content_hash
from detcheck.models.held import Held, HeldTensor
from detcheck.models.stored import stored
from detcheck.probes.reload.stack import SLEEP
from detcheck.records import Outcome, Prompt, Schedule, Subject
from detcheck.spec import Spec

ABSENT = (404, 405, 501)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing: what is held elsewhere, packed
NO_ENDPOINT = (
    "{url} has no endpoint that updates weights: neither /collective_rpc (vLLM, started with VLLM_SERVER_DEV_MODE=1) nor "
    "/update_weights_from_disk (SGLang)"
)


class ServedStack:
    """See `stack.Stack`. The server that is updated cannot be brought up again: it has the old weights once."""

    alike = ()

    def __init__(self, spec: Spec) -> None:
        """Raises UsageError, FailedError where one cannot be asked."""
        self._spec, self._own = spec, spec.options
        self._loop = asyncio.Runner()
        try:
            urls = (Url(self._own.fresh_url), self._own.base_url[0])
            self._servers = tuple(self._loop.run(self._look(url)) for url in urls)
            if self._servers[1].reading.kind == "SGLang" and SLEEP in self._own.update:
                raise UsageError(
                    f"--update sleep: those are vLLM's calls, and {self._servers[1].url} is SGLang. Use files"
                )
            questions = prompts.asked(spec)
            asked = [PromptInput(text=q.text, messages=q.messages) for q in questions]
            self._ways = [
                {kind: self._loop.run(self._way(s, one)) for kind, one in kinds(asked, self._own.chat).items()}
                for s in self._servers
            ]
            asked = [self._loop.run(self._with_tokens(one)) for one in asked]
        except BaseException:
            self.close()
            raise
        self._asked = {name_of(n, one): one for n, one in enumerate(asked)}
        inputs = tuple(Prompt(n, q.shown, self._asked[n].tokens) for n, q in zip(self._asked, questions, strict=True))
        self.cache = self._loop.run(self._servers[1].keeps_prefixes())
        self.subject = Subject(spec.model, "", {}, inputs, Schedule(()), observe_client("a server", self._flags()))

    async def _look(self, url: Url) -> Server:
        own = self._own
        client = Client(url, Secrets.read(own.header, url.credentials), own.timeout, own.ca_bundle, self._spec.model)
        server = UpdatedServer(client, None, Budget())
        await server.look()
        return server

    async def _way(self, server: Server, one: PromptInput) -> Capability:
        """What it can do is found out with another prompt: this one is not to be in its cache."""
        way, _ = await server.find_way(
            "chat" if one.messages or self._own.chat else "completions", one.stand_in(), self._own.ignore_eos
        )
        return way

    async def _with_tokens(self, one: PromptInput) -> PromptInput:
        """As token ids, where both servers take them."""
        if one.messages or self._own.chat:
            return one
        tokens = await self._servers[0].tokenize(one.text)
        other = await self._servers[0].tokenize(one.stand_in().text)
        takes = bool(tokens and other) and all(
            [await s.takes_ids(ways["completions"], other) for s, ways in zip(self._servers, self._ways, strict=True)]
        )
        return PromptInput(tokens=tokens) if takes else one

    def _flags(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, server, ways in zip(("fresh", "updated"), self._servers, self._ways, strict=True):
            kind = " ".join(part for part in (server.reading.kind, server.version) if part) or "of unknown kind"
            found[name] = f"{kind} at {server.url}"
            found[f"{name}.model"] = server.served
            for way in ways.values():
                found |= {f"{name}.{what}": said for what, said in way.can.items()}
        return found

    def engine(self, new: bool) -> UpdatableServer:
        """See `stack.Stack`."""
        which = 0 if new else 1
        found = UpdatableServer(self._servers[which], self._ways[which], self._asked, self._spec, self._loop.run)
        if new:  # what an earlier run left in its prefix cache; where it has no such endpoint, the report shows what came from there
            with contextlib.suppress(FailedError):
                found.empty_cache()
        return found

    def close(self) -> None:
        async def closing() -> None:
            for server in getattr(self, "_servers", ()):
                await server.close()

        self._loop.run(closing())
        self._loop.close()


def kinds(asked: list[PromptInput], chat: bool) -> dict[str, PromptInput]:
    """One prompt of each kind that is asked for."""
    return {"chat" if one.messages or chat else "completions": one for one in reversed(asked)}


def name_of(index: int, one: PromptInput) -> str:
    payload = np.asarray(one.tokens, "<i8").tobytes() if one.tokens else repr((one.text, one.messages)).encode()
    return f"{index}:{content_hash(payload)[:8]}"


class UpdatedServer(Server):
    """A server that is asked for more than completions."""

    async def keeps_prefixes(self) -> bool:
        """Whether it counts what comes from a prefix cache, and does not say that it has none."""
        try:
            page = await self._client.text("/metrics")
        except NoAnswerError:
            return False
        return "cache_hits" in metrics.read(page).numbers and 'enable_prefix_caching="False"' not in page

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers; None where that is no JSON. Raises NoAnswerError."""
        try:
            return (await self._client.json("POST", path, body)).body
        except NoAnswerError as error:
            if error.status == 200:
                return None
            raise


class UpdatableServer:
    """See `stack.Updatable`."""

    def __init__(
        self, server: UpdatedServer, ways: dict[str, Capability], asked: dict[str, PromptInput], spec: Spec, run: Any
    ) -> None:
        self._server, self._ways, self._asked, self._spec, self._run = server, ways, asked, spec, run
        self._before = EarlierAnswers()
        self._sglang = server.reading.kind == "SGLang"

    def complete(self, prompt: str) -> tuple[Outcome, int]:
        return self._run(self._complete(self._asked[prompt]))

    async def _complete(self, one: PromptInput) -> tuple[Outcome, int]:
        way = self._ways["chat" if one.messages or self._spec.options.chat else "completions"]
        before = await self._server.metrics()
        try:
            said = await self._server.complete(way, one, self._spec.options.max_tokens)
        except (NoAnswerError, BadAnswerError) as error:
            raise FailedError(f"{self._server.url} does not answer: {error}") from None
        found, why = outcome_of(said, way, self._before, one)
        if found is None:
            raise FailedError(f"{self._server.url}: {why}")
        return found, int((await self._server.metrics()).since(before, "cache_hits") or 0)

    def holds(self) -> Held:
        """By vLLM's /weight_checker. On the CPU, where vLLM packs weights, what it calls a weight is empty.

        Raises FailedError where it has that endpoint and gives no answer.
        """
        try:
            said = self._run(self._server.post("/weight_checker", {"action": "checksum"}))
        except NoAnswerError as error:
            if error.status in ABSENT:
                return {}
            raise FailedError(
                f"{self._server.url} does not say what its weights are (/weight_checker): {error}"
            ) from None
        sums = said.get("checksums") if isinstance(said, dict) else None
        if not isinstance(sums, dict) or not all(isinstance(s, str) and len(s) == 64 for s in sums.values()):
            return {}
        return {name: None if s == EMPTY else HeldTensor((), "", bytes.fromhex(s)[:8]) for name, s in sums.items()}

    def update(self, way: str) -> tuple[int, float]:
        started = time.perf_counter()
        self._run(self._updating(way))
        return bytes_of(self._spec.model), time.perf_counter() - started

    async def _updating(self, way: str) -> None:
        """Raises FailedError where it says no."""
        post, folder = self._server.post, self._spec.model
        try:
            if self._sglang:
                keep = {"flush_cache": False} if self._spec.options.keep_cache else {}
                said = await post("/update_weights_from_disk", {"model_path": folder, **keep})
                if isinstance(said, dict) and said.get("success") is False:
                    raise FailedError(
                        f"{self._server.url} did not update its weights: {said.get('message', 'no reason given')}"
                    )
                return
            if way == SLEEP:
                await post("/sleep?level=2")
                await post("/wake_up?tags=weights")
            try:
                await post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
            finally:
                if way == SLEEP:
                    await post("/wake_up?tags=kv_cache")
        except NoAnswerError as error:
            if error.status in ABSENT:
                raise FailedError(NO_ENDPOINT.format(url=self._server.url)) from None
            raise FailedError(f"{self._server.url} did not update its weights: {error}") from None

    def empty_cache(self) -> None:
        path = "/flush_cache" if self._sglang else "/reset_prefix_cache"
        try:
            said = self._run(self._server.post(path))
        except NoAnswerError as error:
            raise FailedError(f"{self._server.url} did not empty its prefix cache ({path}): {error}") from None
        if isinstance(said, dict) and said.get("success") is False:
            raise FailedError(f"{self._server.url} did not empty its prefix cache ({path}): requests are still running")

    def ignores(self, way: str) -> bool | None:
        """A server does not say whether it gave its memory back."""
        return None if way == SLEEP else False


def bytes_of(folder: str) -> int:
    """Of the weights, where they can be seen from here; 0 where not."""
    try:
        return sum(tensor.nbytes for tensor in stored(Path(folder), folder)) if Path(folder).is_dir() else 0
    except UsageError:
        return 0
