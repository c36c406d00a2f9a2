"""Log-probabilities of a prompt's own tokens, as a server gives them that echoes prompts: `echo` with `logprobs`, one token made behind them.

How evaluation harnesses score answers with an OpenAI-like server. What stands behind the context in an echo is read as a completion is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from detcheck.engines.server.answer import BadAnswerError, ServerAnswer, read
from detcheck.engines.server.client import HttpResponse, NoAnswerError, unreachable
from detcheck.engines.server.engine import PATHS, REFUSALS, Capability, PromptInput, Server
from detcheck.errors import UsageError

# In the order in which they are tried: two candidates a token tell by how much one leads; some servers make at least one token, others none.
WAYS = tuple({"echo": True, "logprobs": best, "max_tokens": most} for best in (2, 1) for most in (1, 0))


@dataclass(frozen=True)
class ScoredInput(PromptInput):
    """A prompt with its continuation."""

    before: str = ""
    """the context"""
    continuation: str = ""
    context: int = 0
    """tokens of the context"""

    def stand_in(self) -> PromptInput:
        return PromptInput(text=self.text).stand_in()


@dataclass(frozen=True)
class Echo:
    """How prompts are had back."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    def cut(self, body: Any, context: int) -> Any:
        """The answer as if the prompt's tokens behind the first `context` were the completion. Raises BadAnswerError."""
        try:
            (choice,) = body["choices"]
            found = choice["logprobs"]
            lists = {name: found[name] for name in ("tokens", "token_logprobs", "top_logprobs") if found.get(name)}
            words, _ = lists["tokens"], lists["token_logprobs"]
            last = len(words) - self._made(body)
            kept = {name: values[context:last] for name, values in lists.items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadAnswerError("the answer gives no log-probabilities of the prompt") from None
        if last <= context or not all(isinstance(word, str) for word in words):
            raise BadAnswerError("the answer gives no log-probabilities of the continuation")
        choice = {"text": "".join(kept["tokens"]), "finish_reason": "length", "logprobs": kept}
        return {**body, "choices": [choice]}

    def _made(self, body: Any) -> int:
        """Tokens behind the prompt in the answer."""
        if not self.fields["max_tokens"]:
            return 0
        made = (body.get("usage") or {}).get("completion_tokens")
        return made if type(made) is int and 0 <= made <= 1 else 1


class ScoringServer(Server):
    """A server that is asked for given tokens' log-probabilities too."""

    echo = Echo()

    async def find_echo(self, way: Capability, asked: PromptInput) -> Capability:
        """The way, with what an echo of this prompt gives. Raises UsageError where it gives no log-probabilities."""
        for fields in WAYS if way.endpoint == "completions" else ():
            self.echo = Echo(fields)
            try:
                body = (await self._echoed(way, asked)).body
                said = read(self.echo.cut(body, 1))
            except (BadAnswerError, NoAnswerError) as error:
                if isinstance(error, NoAnswerError) and error.status not in REFUSALS:
                    raise unreachable(self.url, error) from None
                continue
            if said.logprobs is None:
                continue
            exact = "exact" if said.exact else "as printed"
            spelled = "yes" if said.tokens is not None else "spelled"
            asked_by = f"echo, logprobs {fields['logprobs']}, max_tokens {fields['max_tokens']}"
            can = {**way.can, "token ids": spelled, "log-probabilities": exact, "scores": asked_by}
            return replace(way, can=can)
        raise UsageError(
            f"{self.url} gives no log-probabilities of a prompt ({PATHS['completions']} with echo and logprobs), which score needs. Ask a server "
            "that does, like vLLM's, or run the model here: leave out --base-url"
        )

    async def count(self, way: Capability, text: str) -> int:
        """Tokens of a prompt, by an echo. Raises NoAnswerError, BadAnswerError."""
        body = (await self._echoed(way, PromptInput(text=text))).body
        return len(self.echo.cut(body, 0)["choices"][0]["logprobs"]["tokens"])

    async def complete(self, way: Capability, asked: PromptInput, max_tokens: int) -> ServerAnswer:
        if not isinstance(asked, ScoredInput):
            return await super().complete(way, asked, max_tokens)
        answer = await self._echoed(way, asked)
        said = read(self.echo.cut(answer.body, asked.context))
        if asked.tokens and said.tokens is not None and said.tokens != asked.tokens[asked.context :]:
            raise BadAnswerError("the echo is not the prompt that was sent: its token ids are others")
        if self.served and said.model and said.model != self.served:
            raise BadAnswerError(f"it was answered by the model {said.model!r}, and before by {self.served!r}")
        text = (
            said.text if said.tokens is None else asked.continuation or asked.text
        )  # tokens that are named by their ids spell nothing
        return replace(said, text=text, resent=answer.resent)

    async def _echoed(self, way: Capability, asked: PromptInput) -> HttpResponse:
        self._budget.spend()
        body = {"model": self.name, "temperature": 0, **way.extras, **self.echo.fields}
        body["prompt"] = list(asked.tokens) if asked.tokens else asked.text
        if asked.salt:
            body["cache_salt"] = asked.salt
        return await self._client.json("POST", PATHS["completions"], body, self._budget.spend)
