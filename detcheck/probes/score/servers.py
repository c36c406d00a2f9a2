"""Servers that score: under the loads in which they are asked for completions, prompts are had back with their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detcheck.engine import Ran
from detcheck.engines.server.answer import BadAnswerError
from detcheck.engines.server.client import NoAnswerError
from detcheck.engines.server.echo import ScoredInput, ScoringServer
from detcheck.engines.server.engine import Capability, PromptInput, Server
from detcheck.engines.server.sampler import ServerSampler
from detcheck.errors import FailedError, UsageError
from detcheck.hashes import content_hash
from detcheck.probes.score.greedy import scored
from detcheck.probes.score.pairs import LONE_TOKEN, MERGED, Pair, no_token
from detcheck.records import Step
from detcheck.spec import Spec


class ScoringServers(ServerSampler):
    """Raises UsageError when it is opened where a server gives no log-probabilities of a prompt."""

    server_type = ScoringServer

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._seams: list[str] = []
        self._counted = 0  # pairs that have been cut into tokens

    def inputs(self, questions: Sequence[Pair]) -> list[PromptInput]:
        cut = [question.cut() for question in questions]
        return [ScoredInput(text=before + after, before=before, continuation=after) for before, after in cut]

    async def _ways_of(self, server: Server, asked: Sequence[PromptInput]) -> dict[str, Capability]:
        ways = await super()._ways_of(server, asked)
        return {"completions": await server.find_echo(ways["completions"], asked[0])}

    async def _with_tokens(self, one: ScoredInput) -> ScoredInput:
        """Cut where the context alone ends. Raises UsageError where nothing is left to be scored."""
        index, self._counted = self._counted, self._counted + 1
        one, server = await super()._with_tokens(one), self._servers[0]
        before = await server.tokenize(one.before) if one.continuation else one.tokens[:1]
        try:
            first = len(before) if one.continuation else 1
            context = first or await server.count(self._way(0, one), one.before)
        except (NoAnswerError, BadAnswerError) as error:
            raise FailedError(f"{server.url} does not say how many tokens the context has: {error}") from None
        if one.tokens and len(one.tokens) <= context and not one.continuation:
            raise UsageError(LONE_TOKEN.format(index=index, text=one.before[:40]))
        if one.tokens and len(one.tokens) <= context:
            raise UsageError(no_token(index, one.before, one.continuation, context))
        if one.tokens and before and one.tokens[:context] != before:
            self._seams.append(MERGED.format(index=index, given=len(one.tokens) - context))
        return replace(one, context=context)

    def _name(self, index: int, one: ScoredInput) -> str:
        digest = content_hash(super()._name(index, one).encode(), str(one.context).encode())
        return f"{index}:{digest[:8]}"

    def _flags(self) -> dict[str, str]:
        return super()._flags() | ({"seam": "; ".join(self._seams)} if self._seams else {})

    def run(self, step: Step) -> Ran:
        return scored(super().run(step))
