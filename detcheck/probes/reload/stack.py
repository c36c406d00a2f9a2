"""What the session asks of whatever serves a model, here or in a server: an engine with the new weights, and one to update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from detcheck.models.held import Held
    from detcheck.records import Outcome, Subject

SLEEP = "sleep"


class Updatable(Protocol):
    """An engine that runs."""

    def complete(self, prompt: str) -> tuple[Outcome, int]:
        """(what came, tokens of the prompt that were in the prefix cache), of the prompt of that name. Raises FailedError where nothing came."""

    def holds(self) -> Held:
        """What its weights are; {} where it does not tell. Raises FailedError."""

    def update(self, way: str) -> tuple[int, float]:
        """To the new weights: (bytes, 0 where they are not known; seconds). Raises whatever the engine does."""

    def empty_cache(self) -> None:
        """Raises FailedError where it does not."""

    def ignores(self, way: str) -> bool | None:
        """Whether it takes that way's calls and does nothing; None: that cannot be seen."""


class Stack(Protocol):
    """Open: the prompts are known."""

    subject: Subject
    """without its schedule and cases"""
    cache: bool
    """whether there is a prefix cache"""
    alike: tuple[str, ...]
    """large tensors that are the same in the old weights, which we made, and in the new"""

    def engine(self, new: bool) -> Updatable:
        """One with the new weights, or one with the old ones that was never updated; the one before is ended. Raises FailedError."""

    def close(self) -> None: ...
