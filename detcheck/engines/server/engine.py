"""A server that speaks OpenAI's API: what it can do is asked first, each thing by itself, and then completions by that way.

The deepest comparison it allows is taken. With token ids and log-probabilities that are exactly float32 numbers, bits; with
tokens, by id or spelled, tokens; else text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detcheck.engine import Sampling
from detcheck.engines.server import metrics as server_metrics
from detcheck.engines.server.answer import BadAnswerError, ServerAnswer, read
from detcheck.engines.server.client import Client, NoAnswerError, unreachable
from detcheck.engines.server.credentials import Url
from detcheck.engines.server.metrics import Reading
from detcheck.errors import FailedError, UsageError
from detcheck.hashes import content_hash
from detcheck.redacted import HIDDEN

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
TRIAL_TOKENS = 4  # of the requests that ask what a server can do
MOST_TO_ASK = 12  # requests that opening a server sends for each way of asking, at most
# What is wanted beside the completion, each asked for by itself where a server refuses them together.
WANTED: dict[str, dict[str, dict[str, Any]]] = {
    "completions": {
        "token ids": {"return_token_ids": True},
        "token names": {"return_tokens_as_token_ids": True},
        "log-probabilities": {"logprobs": 2},
        "seed": {"seed": 0},
    },
    "chat": {
        "token ids": {"return_token_ids": True},
        "token names": {"return_tokens_as_token_ids": True},
        "log-probabilities": {"logprobs": True, "top_logprobs": 2},
        "seed": {"seed": 0},
    },
}
REFUSALS = (
    400,
    404,
    405,
    415,
    422,
    500,
    501,
)  # of a request that the server does not understand, or cannot serve in this form
NOT_THERE = (404, 405, 501)


@dataclass
class Budget:
    """Requests that a run may send, over all servers."""

    most: int | None = None
    sent: int = 0

    def spend(self) -> None:
        """Raises NoAnswerError where they are used up."""
        if self.most is not None and self.sent >= self.most:
            raise NoAnswerError(f"--max-requests {self.most} are used up")
        self.sent += 1


@dataclass(frozen=True)
class PromptInput:
    """One prompt: token ids, a text, or the messages of a chat."""

    tokens: tuple[int, ...] = ()
    text: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    later: tuple[tuple[Mapping[str, str], ...], ...] = ()
    """of a conversation: the messages that follow each answer but the last"""
    salt: str = ""
    """vLLM's cache_salt: what was computed under another one is not reused"""
    sampling: Sampling | None = None
    """None: at temperature 0"""

    @property
    def key(self) -> str:
        """The same for all that ask for the same: of a conversation it is another one at each turn."""
        return content_hash(
            repr((self.tokens, self.text, self.messages, self.sampling)).encode("utf-8", "surrogatepass")
        )

    def stand_in(self) -> PromptInput:
        """A prompt of that kind and length that begins otherwise: asking for it puts nothing of this one into a prefix cache."""
        if self.messages:
            first, *others = self.messages
            return PromptInput(messages=({**first, "content": begun_otherwise(first.get("content", ""))}, *others))
        return PromptInput(text=begun_otherwise(self.text))


@dataclass(frozen=True)
class Capability:
    """How completions are asked for, as found out."""

    endpoint: str
    """completions or chat"""
    extras: Mapping[str, Any]
    """fields that the server takes beside the plain ones"""
    takes_ids: bool = False
    can: Mapping[str, str] = field(default_factory=dict)
    """what it can do, in words, for the record"""
    spelled: bool = True
    """whether tokens that are spelled make up the text, so that they may be compared"""


def begun_otherwise(text: str) -> str:
    first = "copper" if not text.startswith("copper") else "garden"
    return first + text[len(first) :]


class Server:
    """One address. Everything that asks is a coroutine of one event loop."""

    def __init__(self, client: Client, model: str | None, budget: Budget) -> None:
        self.url: Url = client.url
        self.name = model or ""
        self.served = ""
        """the model's name in its answers"""
        self.version = ""
        self.reading = Reading()
        self.lacking = 0
        """steps in a row of whose answers its counters lack some"""
        self.ever_lacked = False
        self._client, self._budget = client, budget

    async def close(self) -> None:
        await self._client.close()

    async def alive(self) -> str:
        """Why it cannot be reached; "" where it can."""
        try:
            await self._client.json("GET", "/v1/models")
        except NoAnswerError as error:
            return "" if error.status else str(error)
        return ""

    async def look(self) -> None:
        """What can be known without a completion. Raises UsageError where no model is named, FailedError if it is down."""
        try:
            listed = (await self._client.json("GET", "/v1/models")).body
            names = [m["id"] for m in listed["data"] if isinstance(m["id"], str)] if isinstance(listed, dict) else []
        except NoAnswerError as error:
            if error.status not in NOT_THERE or not self.name:
                raise unreachable(self.url, error) from None
            names = []
        except (KeyError, TypeError):
            names = []
        if not self.name and len(names) != 1:
            raise UsageError(
                f"--model: {self.url} serves {', '.join(names[:8]) if names else 'no model that it names'}. Say which one"
            )
        if not self.name and HIDDEN in names[0]:
            raise UsageError(
                f"--model: {self.url} names its model {names[0]}, where *** stands for a key or a password that was sent. Say --model with the whole "
                "name, or take a key that does not occur in it"
            )
        self.name = self.name or names[0]
        self.reading = await self.metrics()
        for path in ("/version", "/get_server_info", "/props"):
            try:
                body = (await self._client.json("GET", path)).body
            except NoAnswerError:
                continue
            found = body.get("version") or body.get("build_info") if isinstance(body, dict) else None
            if isinstance(found, str):
                self.version = found[:80]
                break

    async def metrics(self) -> Reading:
        """An empty one where the server shows none."""
        try:
            return server_metrics.read(await self._client.text("/metrics"), {self.name, self.served} - {""})
        except NoAnswerError:
            return Reading()

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """The text's tokens as the server counts them; () where it does not tell."""
        for body in ({"model": self.name, "prompt": text}, {"content": text, "add_special": True}):
            try:
                answer = (await self._client.json("POST", "/tokenize", body)).body
            except NoAnswerError:
                continue
            found = answer.get("tokens") if isinstance(answer, dict) else None
            if isinstance(found, list) and found and all(type(t) is int and 0 <= t < 2**31 for t in found):
                return tuple(found)
        return ()

    async def find_way(self, endpoint: str, asked: PromptInput, ignore_eos: bool) -> tuple[Capability, ServerAnswer]:
        """How to ask for completions there, and what a trial of it said. Raises FailedError."""
        wanted = WANTED[endpoint]
        fixed: dict[str, Any] = {"ignore_eos": True} if ignore_eos else {}
        way = Capability(endpoint, fixed | {k: v for fields in wanted.values() for k, v in fields.items()})
        try:
            said = await self.complete(way, asked, TRIAL_TOKENS)
            taken = dict.fromkeys(wanted, True)
        except NoAnswerError as error:
            if error.status not in REFUSALS:
                raise unreachable(self.url, error) from None
            said, taken = await self._one_by_one(replace(way, extras=fixed), asked, wanted)
            way = replace(way, extras=fixed | {k: v for name in wanted if taken[name] for k, v in wanted[name].items()})
        except BadAnswerError as error:
            # A log-probability that is none (a stand-in, a null) is no reason not to compare the tokens.
            bare = replace(way, extras={k: v for k, v in way.extras.items() if "logprobs" not in k})
            try:
                said = await self.complete(bare, asked, TRIAL_TOKENS)
            except (NoAnswerError, BadAnswerError):
                raise FailedError(f"{self.url} does not answer as OpenAI's API does: {error}") from None
            way, taken = bare, dict.fromkeys(wanted, True) | {"log-probabilities": False}
        self.served = said.model or self.name
        dated = rf"{re.escape(self.name)}[-@:]\d[\d.-]*"  # a name that stands for the newest of several versions
        if said.model and said.model != self.name and not re.fullmatch(dated, said.model):
            raise FailedError(
                f"{self.url} was asked for {self.name} and answered as {said.model}. Say --model {said.model}, if that is the one meant"
            )
        spelled = said.words is None or "".join(said.words) == said.text
        exact = "none" if said.logprobs is None else "exact" if said.exact else "as printed"
        if said.tokens is None and not spelled and exact != "none":
            exact = "not compared, since its tokens do not spell its text"
        can = {
            "endpoint": PATHS[endpoint],
            "token ids": "yes"
            if said.tokens is not None
            else "spelled"
            if said.words is not None and spelled
            else "no",
            "log-probabilities": exact,
            "seed": "taken" if taken["seed"] else "refused",
        }
        return replace(way, can=can, spelled=spelled), said

    async def _one_by_one(
        self, bare: Capability, asked: PromptInput, wanted: Mapping[str, Mapping[str, Any]]
    ) -> tuple[ServerAnswer, dict[str, bool]]:
        try:
            said = await self.complete(bare, asked, TRIAL_TOKENS)
        except (NoAnswerError, BadAnswerError) as error:
            status = getattr(error, "status", None)
            raise NotServedError(
                f"{self.url}{PATHS[bare.endpoint]} does not serve {self.name}: {error}", status
            ) from None
        taken, extras = {}, dict(bare.extras)
        for name, fields in wanted.items():
            try:
                said = await self.complete(replace(bare, extras=extras | fields), asked, TRIAL_TOKENS)
                extras |= fields
                taken[name] = True
            except (NoAnswerError, BadAnswerError):
                taken[name] = False
        return said, taken

    async def takes_ids(self, way: Capability, tokens: Sequence[int]) -> bool:
        """Whether a prompt of token ids is taken as just these."""
        try:
            said = await self.complete(way, PromptInput(tokens=tuple(tokens)), 1)
        except (NoAnswerError, BadAnswerError):
            return False
        return said.prompt_tokens in (None, tuple(tokens))

    async def echoes(self, way: Capability, asked: PromptInput) -> bool:
        """Whether the prompt can be had back in front of the completion."""
        try:
            said = await self.complete(replace(way, extras={"echo": True}), asked, 1)
        except (NoAnswerError, BadAnswerError):
            return False
        return bool(asked.text) and said.text.startswith(asked.text)

    async def time(self, way: Capability, asked: PromptInput, max_tokens: int) -> tuple[float, ServerAnswer]:
        """(seconds that a lone request takes, what it said). Raises FailedError."""
        started = time.perf_counter()
        try:
            said = await self.complete(way, asked, max_tokens)
        except (NoAnswerError, BadAnswerError) as error:
            raise FailedError(f"{self.url} does not complete the prompt: {error}") from None
        return time.perf_counter() - started, said

    async def complete(self, way: Capability, asked: PromptInput, max_tokens: int) -> ServerAnswer:
        """One completion. Raises NoAnswerError, BadAnswerError: the reason why there is none."""
        self._budget.spend()
        body: dict[str, Any] = {"model": self.name, "temperature": 0, "max_tokens": max_tokens, **way.extras}
        if way.endpoint == "chat":
            body["messages"] = list(asked.messages) or [{"role": "user", "content": asked.text}]
        else:
            body["prompt"] = list(asked.tokens) if asked.tokens else asked.text
        if asked.salt:
            body["cache_salt"] = asked.salt
        if asked.sampling:
            body |= {"temperature": asked.sampling.temperature, "seed": asked.sampling.seed}
        answer = await self._client.json("POST", PATHS[way.endpoint], body, self._budget.spend)
        said = read(answer.body, trial=max_tokens <= TRIAL_TOKENS)
        if asked.tokens and said.prompt_tokens not in (None, asked.tokens):
            raise BadAnswerError(
                "the answer is to another prompt: the prompt's token ids in it are not those that were sent"
            )
        if self.served and said.model and said.model != self.served:
            raise BadAnswerError(f"it was answered by the model {said.model!r}, and before by {self.served!r}")
        return replace(said, resent=answer.resent)


class NotServedError(FailedError):
    """An endpoint that is not there, or does not complete anything."""

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status
