"""Which ops caused the divergence, from what was seen of every call. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from detcheck.probes.bisect.facts import Bisected, Kind


@dataclass(frozen=True)
class Cause:
    """A kind of call whose results follow the batch, or are not the same when it is asked again."""

    kind: Kind
    run: bool
    batch: bool
    conditions: tuple[str, ...]
    order: int
    """of its first call that shows it"""

    @property
    def words(self) -> str:
        return " and ".join(word for word, is_so in (("run", self.run), ("batch", self.batch)) if is_so)


def causes(facts: Bisected) -> list[Cause]:
    """In the order in which they ran first. A module only where it is the first: then no op inside explains it."""
    found = sorted(filter(None, map(cause, facts.kinds)), key=lambda each: each.order)
    if found and found[0].kind.module:  # nothing that the dispatcher saw inside it did
        return [found[0], *(each for each in found[1:] if not each.kind.module)]
    return [each for each in found if not each.kind.module]


def cause(kind: Kind) -> Cause | None:
    shown = [(each, *each.shows) for each in kind.evidence if any(each.shows)]
    if not shown:
        return None
    conditions = tuple(dict.fromkeys(each.condition for each, _, _ in shown))
    run, batch = any(r for _, r, _ in shown), any(b for _, _, b in shown)
    return Cause(kind, run, batch, conditions, min(each.order for each, _, _ in shown))
