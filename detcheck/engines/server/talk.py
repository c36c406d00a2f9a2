"""One sample of a server: a request, or a conversation whose answers are fed back as messages, turn by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from detcheck.engine import Sample
from detcheck.engines.server.answer import ServerAnswer
from detcheck.engines.server.engine import PromptInput
from detcheck.engines.server.send import SentStep
from detcheck.turns import whole

CALLS_TOOLS = "the answer before it calls a tool, which nothing runs, and only its text could be fed back"


@dataclass
class Talk:
    """What is asked next, and what came until now."""

    asked: PromptInput
    turns: list[Sample] = field(default_factory=list)
    why: str = ""
    """why it is not asked on, where that is not its last answer's fault"""

    @property
    def goes_on(self) -> bool:
        return not self.why and all(turn.outcome for turn in self.turns)

    def take(self, made: Sample, said: ServerAnswer | None, seen: SentStep, later: Sequence[Mapping[str, str]]) -> None:
        """The answer to what was asked last. `later`: the messages that follow it, () behind the last turn."""
        self.turns.append(replace(made, turns=((said.asked, cached(said, seen)) if said else (None, None),)))
        if said is None or not later:
            return
        if said.calls_tools:
            self.why = CALLS_TOOLS
        answer = {"role": "assistant", "content": said.text}
        self.asked = replace(self.asked, messages=(*self.asked.messages, answer, *later))

    def sample(self, asked: int) -> Sample:
        """Of all its turns, of which `asked` were to be answered."""
        return replace(self.turns[0], turns=()) if asked == 1 else whole(self.turns, asked, self.why)


def cached(said: ServerAnswer, seen: SentStep) -> int | None:
    """Tokens of the prompt that the server found in its prefix cache: as it says, or of a lone request by its counts."""
    if said.cached is not None or len(seen.sent) > 1:
        return said.cached
    hits = seen.grown("cache_hits")
    return None if hits is None else int(hits)


def on_its_own_history(turn: Sample) -> Sample:
    """Of a conversation that began cold, at a server that takes no salt: its later turns find what it said itself."""
    fed_by_itself = turn.as_asked is False and turn.condition.slot is not None
    return replace(turn, condition=replace(turn.condition, fed=""), as_asked=None if fed_by_itself else turn.as_asked)
