"""Requests sent to a server at their times, and what was seen of its batches meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from detcheck.condition_name import kind_of
from detcheck.engine import Sample
from detcheck.engines.server.answer import BadAnswerError, ServerAnswer
from detcheck.engines.server.client import NoAnswerError
from detcheck.engines.server.engine import Capability, PromptInput, Server
from detcheck.engines.server.metrics import Reading
from detcheck.hashes import content_hash
from detcheck.records import Condition, Outcome, Step

POLL_S = 0.02  # between looks at a server's metrics while requests are under way
SETTLE_S = 3.0  # that a server's counters may take after the last answer
LATE_S = (
    10.0  # that they are waited for when they first lack answers: counters that come so late tell nothing of a step
)
SOON_S = 0.2  # the same where they lacked answers of the last two steps, so that a cache is not waited for each time
ELSEWHERE = (
    "the server's own counts in /metrics grew by less than the answers of its step, so some were not computed there: a cache, or another "
    f"server behind the same address, gave them (or the counts are more than {LATE_S:g} s late). Ask the server itself"
)


@dataclass(frozen=True)
class Request:
    """One request of a step."""

    asked: PromptInput
    max_tokens: int
    delay_s: float
    """after the step's first"""


@dataclass(frozen=True)
class Sent:
    """What came of it."""

    began: float
    ended: float
    said: ServerAnswer | None
    missing: str
    resent: int = 0


@dataclass
class SentStep:
    """A step of the schedule, sent."""

    sent: list[Sent] = field(default_factory=list)
    looks: list[tuple[float, int, int]] = field(default_factory=list)
    """(when, requests that the server ran, requests of ours in flight at the most around then)"""
    before: Reading = field(default_factory=Reading)
    after: Reading = field(default_factory=Reading)
    in_flight: int = 0
    """the most requests of ours at once"""
    flying: int = 0
    """now"""
    doubtful: Counter[str] = field(default_factory=Counter)
    """what its answers say of themselves (`judge/answers.py`) -> answers"""
    interrupted: bool = False
    """by Ctrl-C"""

    def grown(self, name: str) -> float | None:
        """How much a counter of the server grew; None where it does not tell."""
        return self.after.since(self.before, name)

    @property
    def all_computed(self) -> bool:
        """Whether the server counts all that was answered: the requests, or where it does not count these, the tokens that the answers say were made.

        Requests decide alone where they are counted: what a server counts as a made token is its own matter. True where it tells neither.
        Where its steps are counted, tokens were made in at least one.
        Whoever else asks it at that time is counted too, and can hide that an answer is not.
        """
        answers = [each.said for each in self.sent if each.said]
        if any(said.length for said in answers) and self.grown("steps") == 0:
            return False
        if (finished := self.grown("finished")) is not None:
            return finished >= len(answers)
        made = self.grown("made")
        return made is None or made >= sum(said.made or 0 for said in answers)

    def forget_counts(self) -> None:
        """What the server showed says nothing of this step."""
        self.looks, self.before, self.after = [], Reading(), Reading()


async def send(server: Server, way: Capability, requests: Sequence[Request]) -> SentStep:
    """All of them, each at its time, whatever becomes of the others."""
    seen = SentStep()
    watches = server.reading.sees_batches
    if watches:
        seen.before = seen.after = await server.metrics()
    done = asyncio.Event()
    watcher = asyncio.create_task(watch(server, seen, done)) if watches else None
    tasks = [asyncio.create_task(one(server, way, request, seen)) for request in requests]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:  # Ctrl-C: what has come counts
        seen.interrupted = True
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    finally:
        done.set()
        if watcher:
            watcher.cancel()
    gone = Sent(0.0, 0.0, None, "interrupted before it was answered")
    seen.sent = [gone if task.cancelled() else task.result() for task in tasks]
    if watches:
        await settle(server, seen)
    return seen


async def one(server: Server, way: Capability, request: Request, seen: SentStep) -> Sent:
    await asyncio.sleep(request.delay_s)
    began = time.perf_counter()
    seen.flying += 1
    seen.in_flight = max(seen.in_flight, seen.flying)
    said, why, resent = None, "", 0
    try:
        said = await server.complete(way, request.asked, request.max_tokens)
        resent = said.resent
    except NoAnswerError as error:
        why, resent = str(error), error.resent
    except BadAnswerError as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001  the boundary: an answer may hold anything, and costs its own sample at most
        why = f"the answer cannot be read ({type(error).__name__})"
    finally:
        seen.flying -= 1
    return Sent(began, time.perf_counter(), said, why, resent)


async def watch(server: Server, seen: SentStep, done: asyncio.Event) -> None:
    """Looks at the metrics again and again until it is done."""
    while not done.is_set():
        ours = seen.flying
        reading = await server.metrics()
        if reading.sees_batches:
            seen.looks.append((time.perf_counter(), int(reading.numbers["running"]), max(ours, seen.flying)))
        await asyncio.sleep(POLL_S)


async def settle(server: Server, seen: SentStep) -> None:
    """Reads the metrics until they count all that was answered, or for a while.

    Counters that come late are no evidence of a step, neither for a batch nor for a cache: then the server's batches are unseen from there on.
    """
    began = time.perf_counter()
    limit_s = LATE_S if not server.ever_lacked else SETTLE_S if server.lacking < 2 else SOON_S
    until = began + (SOON_S if seen.interrupted else limit_s)
    while True:
        seen.after = await server.metrics()
        now = time.perf_counter()
        if seen.after.sees_batches and seen.all_computed:  # a page that did not come tells nothing yet
            server.lacking = 0
            if now - began > SETTLE_S:
                server.reading = replace(server.reading, numbers={})
                seen.forget_counts()
            return
        if now > until:
            break
        await asyncio.sleep(POLL_S)
    if not seen.after.sees_batches:  # it shows nothing any more, and is not waited for again
        server.reading = replace(server.reading, numbers={})
        seen.forget_counts()
    elif not seen.all_computed:
        server.lacking, server.ever_lacked = server.lacking + 1, True


def sample(
    step: Step, slot: int, one: Sent, seen: SentStep, strict: bool, outcome: Outcome | None, missing: str
) -> Sample:
    """With the condition that it was under, as far as it was seen.

    `one`: what was sent for it; `strict`: a wave must have run together whole, since its size was asked for; else two of it suffice.
    """
    looks = [look for look in seen.looks if one.began <= look[0] <= one.ended]
    # A request can be over between two looks: then what was seen in its step is all that is known of it.
    sizes = {n for _, n, _ in looks if n} or {n for _, n, _ in seen.looks if n}
    visible = seen.before.sees_batches
    if step.condition not in ("alone", "cold"):
        unknown = Sample(Condition(step.condition, None, slot), outcome, missing)
        if not visible:
            return unknown
        # A step makes at most one token of a request: more tokens than steps prove that requests were computed together.
        steps, made = seen.grown("steps"), seen.grown("made")
        if steps and made and max(sizes, default=0) < 2:
            sizes = sizes | {max(1, math.ceil(made / steps))}
        together = max((sizes | {n for _, n, _ in seen.looks}), default=0)
        wanted = len(step.rows) if strict and kind_of(step.condition) == "wave" else 2
        return replace(unknown, batch_sizes=tuple(sorted(sizes)), as_asked=together >= wanted)
    here = content_hash(step.input.encode())[:12]
    if not visible:
        return Sample(Condition(step.condition, None, slot, here), outcome, missing)
    fed = "cache" if seen.grown("cache_hits") else ""
    finished = seen.grown("finished")
    ours = len(seen.sent) + sum(each.resent for each in seen.sent)
    if any(n > mine for _, n, mine in looks) or (
        finished is not None and finished > ours
    ):  # others were computed with it
        sizes |= {2}
        others = Condition(step.condition, max(sizes), None, fed=fed)
        return Sample(others, outcome, missing, tuple(sorted(sizes)), as_asked=False)
    # Over before anybody looked: then its own tokens are all that the server made in that time.
    if not sizes and finished == 1 and one.said and seen.grown("made") == one.said.made:
        sizes = {1}
    as_asked = False if step.condition == "cold" and fed else None
    return Sample(
        Condition(step.condition, 1, slot, here, fed=fed), outcome, missing, tuple(sorted(sizes)), as_asked=as_asked
    )
