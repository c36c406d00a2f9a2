"""Completions of a server: the same prompts under loads of every kind, by the deepest comparison that it allows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detcheck.bits import content_hash
from detcheck.engines._server_answer import BadAnswerError, Said
from detcheck.engines._server_client import Client, NoAnswerError, Secrets
from detcheck.engines._server_metrics import Reading
from detcheck.engines.server import Asked, Budget, NotServedError, Server, Way
from detcheck.environment import observe_client
from detcheck.errors import FailedError, UsageError
from detcheck.outcomes import outcome
from detcheck.probes import load
from detcheck.probes.prompts import Question
from detcheck.records import Case, Condition, Kernels, Observation, Outcome, Prompt, Role, Schedule, Spec, Step, Subject

POLL_S = 0.02  # between looks at a server's metrics while requests are under way
SETTLE_S = 0.5  # that a server's counters may take after the last answer
NEEDED = ("ours vllm::attention", "ours vllm::linear")  # what a server that runs our kernels counts
# What fillers are made of, where a prompt's own tokens are not known.
WORDS = [
    "take",
    "apart",
    "radio",
    "safe",
    "light",
    "matter",
    "rule",
    "first",
    "principle",
    "fool",
    "easy",
    "person",
    "ask",
    "question",
    "write",
    "bit",
    "answer",
    "part",
    "often",
    "company",
    "travel",
    "river",
    "stone",
    "letter",
    "night",
    "garden",
    "engine",
    "copper",
    "window",
    "signal",
    "paper",
    "winter",
    "market",
    "bridge",
    "quiet",
    "number",
]


@dataclass
class Polled:
    """What was seen of a server while requests were under way."""

    looks: list[tuple[float, int, int]]
    """(when, requests that the server ran, requests of ours in flight at the most around then)"""
    before: Reading
    after: Reading
    in_flight: int = 0
    """the most requests of ours at once"""


@dataclass
class Sent:
    """One request that was sent."""

    began: float
    ended: float
    said: Said | None
    missing: str
    resent: int = 0


class Served:
    """The probe, opened: servers, prompts, and a schedule of loads. `observe` sends one step of it."""

    def __init__(self, spec: Spec, questions: Sequence[Question], planned: Schedule | None = None) -> None:
        """Raises UsageError, FailedError where a server cannot be asked."""
        self._spec, self._own = spec, spec.options
        self._loop = asyncio.Runner()
        self._servers: list[Server] = []
        self._flying = 0
        self._lost = 0  # steps in a row of which nothing came
        self._ids: list[set[str]] = []  # a server's: of its answers
        self._texts: list[dict[tuple[int, ...], str]] = []  # a server's: of every run of tokens
        try:
            self._loop.run(self._open(questions, planned))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        async def closing() -> None:
            for server in self._servers:
                await server.close()

        self._loop.run(closing())
        self._loop.close()

    async def _open(self, questions: Sequence[Question], planned: Schedule | None) -> None:
        spec, own = self._spec, self._own
        budget = Budget(own.max_requests)
        for url in own.base_url:
            client = Client(url, Secrets.read(own.header, url.credentials), own.timeout, own.ca_bundle)
            self._servers.append(Server(client, spec.model, budget))
            self._ids.append(set())
            self._texts.append({})
        await asyncio.gather(*(server.look() for server in self._servers))
        names = list(dict.fromkeys(server.name for server in self._servers))
        if len(names) > 1:
            raise UsageError(f"--model: the servers have {', '.join(names)}. Say which model to ask all of them for")
        asked = [Asked(text=q.text, messages=q.messages) for q in questions]
        self._ways = [await self._ways_of(server, asked) for server in self._servers]
        asked = await self._with_tokens(asked)
        lone_s = await self._warm(asked)
        self._asked = {self._name(index, one): one for index, one in enumerate(asked)}
        prompts = tuple(
            Prompt(name, questions[index].shown, one.tokens) for index, (name, one) in enumerate(self._asked.items())
        )
        several = len(self._servers) > 1
        cases = [
            (Case(spec.probe, names[0], self._kernels(server), "", p.name, n if several else 0), Role.GATES)
            for n, server in enumerate(self._servers, 1)
            for p in prompts
        ]
        schedule = planned or self._plan(prompts, lone_s, budget)
        environment = observe_client("a server", self._flags())
        self.subject = Subject(names[0], "", {}, prompts, schedule, environment, tuple(cases))

    async def _ways_of(self, server: Server, asked: Sequence[Asked]) -> dict[str, Way]:
        """How each kind of prompt is asked for at a server: {"completions": ..., "chat": ...}, those that are needed."""
        ways: dict[str, Way] = {}
        for one in asked:
            endpoint = "chat" if one.messages or self._own.chat else "completions"
            if endpoint in ways:
                continue
            try:
                ways[endpoint], said = await server.find_way(endpoint, one, self._own.ignore_eos)
            except NotServedError:
                if endpoint == "chat":
                    raise
                ways[endpoint], said = await server.find_way("chat", one, self._own.ignore_eos)
            if ways[endpoint].endpoint == "completions":
                echo = "yes" if await server.echoes(ways[endpoint], one) else "no"
                tokens = said.prompt_tokens or await server.tokenize(one.text)
                takes = bool(tokens) and await server.takes_ids(ways[endpoint], tokens)
                ways[endpoint] = replace(
                    ways[endpoint],
                    takes_ids=takes,
                    can={**ways[endpoint].can, "echo": echo, "prompt": "as token ids" if takes else "as text"},
                )
        return ways

    def _way(self, replica: int, one: Asked) -> Way:
        return self._ways[replica]["chat" if one.messages or self._own.chat else "completions"]

    async def _with_tokens(self, asked: Sequence[Asked]) -> list[Asked]:
        """The prompts as token ids, where every server takes them: then all are asked exactly the same."""
        found = []
        for one in asked:
            tokens: tuple[int, ...] = ()
            if all(self._way(n, one).takes_ids for n in range(len(self._servers))):
                tokens = await self._servers[0].tokenize(one.text)
                if not tokens:
                    trial = await self._servers[0].time(self._way(0, one), one, 1)
                    tokens = trial[1].prompt_tokens or ()
            found.append(replace(one, tokens=tokens))
        return found

    async def _warm(self, asked: Sequence[Asked]) -> float:
        """Every prompt once at every server, so that its prefix is in the cache. Seconds that a lone request takes."""
        slowest = 0.0
        for replica, server in enumerate(self._servers):
            for index, one in enumerate(asked):
                took, _ = await server.time(self._way(replica, one), one, 1 if index else self._own.max_tokens)
                slowest = max(slowest, took)
            server.reading = await server.metrics()
        return slowest

    def _name(self, index: int, one: Asked) -> str:
        payload = np.asarray(one.tokens, "<i8").tobytes() if one.tokens else repr((one.text, one.messages)).encode()
        return f"{index}:{content_hash(payload)[:8]}"

    def _kernels(self, server: Server) -> str:
        ours = all(server.reading.calls.get(name) for name in NEEDED)
        return str(Kernels.BATCH_INVARIANT if ours else Kernels.STOCK)

    def _plan(self, prompts: Sequence[Prompt], lone_s: float, budget: Budget) -> Schedule:
        """The same steps at every server, one server after the other."""
        spec, own, servers = self._spec, self._own, len(self._servers)
        left = None if budget.most is None else (budget.most - budget.sent) // servers
        limits = load.Limits(own.max_concurrency, left, own.load_rate, lone_s)
        lengths = {p.name: len(p.token_ids) or max(1, len(p.text.split())) for p in prompts}
        asked = own.samples, own.max_tokens, spec.trials, own.conditions, spec.batch_sizes, spec.seed
        one = load.schedule(lengths, *asked, limits)
        place = {p.name: index for index, p in enumerate(prompts)}
        steps = [replace(s, case=n * len(prompts) + place[s.input]) for n in range(servers) for s in one.steps]
        return replace(one, steps=tuple(replace(step, index=index) for index, step in enumerate(steps)))

    def _flags(self) -> dict[str, str]:
        """What the servers are and can do."""
        found: dict[str, str] = {}
        for n, (server, ways) in enumerate(zip(self._servers, self._ways, strict=True), 1):
            name = f"server {n}" if len(self._servers) > 1 else "server"
            kind = " ".join(part for part in (server.reading.kind, server.version) if part) or "of unknown kind"
            found[name] = f"{kind} at {server.url}"
            found[f"{name}.model"] = server.served
            found[f"{name}.batches"] = "seen in /metrics" if server.reading.sees_batches else "not seen"
            for way in ways.values():
                found |= {f"{name}.{what}": said for what, said in way.can.items()}
            if server.reading.calls:
                found[f"{name}.plugin"] = "detcheck's, by its counts in /metrics"
        return found

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Send the step's requests at their times. A sample that did not come is missing, with the reason."""
        return self._loop.run(self._observe(step))

    async def _observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        case, _ = self.subject.cases[step.case]
        replica = max(case.replica - 1, 0)
        server, started = self._servers[replica], time.perf_counter()
        sent, polled = await self._send(replica, step)
        wall_s = time.perf_counter() - started
        await self._give_up_on(server, sent)
        observations, outcomes = [], {}
        for sample, slot in enumerate(slot for slot, length in enumerate(step.rows) if length == 0):
            found, why = self._outcome(replica, step, sent[slot])
            if found:
                outcomes[found.id] = found
            condition, seen = self._condition(step, slot, sent, polled)
            first = {}
            if not sample:
                resent = sum(one.resent for one in sent)
                first["metrics"] = (("in_flight", polled.in_flight), *([("resent", resent)] if resent else []))
                first["calls"] = polled.after.calls_since(polled.before)
                first["preemptions"] = int(polled.after.since(polled.before, "preemptions") or 0)
            which = step.trial, step.index, sample, found.id if found else None
            observations.append(Observation(case, condition, *which, wall_s=wall_s, missing=why, **seen, **first))
        return observations, list(outcomes.values())

    async def _send(self, replica: int, step: Step) -> tuple[list[Sent], Polled]:
        server = self._servers[replica]
        before = await server.metrics() if server.reading.sees_batches else Reading()
        polled = Polled([], before, before)
        done = asyncio.Event()
        watcher = asyncio.create_task(self._watch(server, polled, done)) if server.reading.sees_batches else None
        prompt = self._asked[step.input]
        way, fillers = self._way(replica, prompt), self._fillers(step)
        requests = [
            self._one(
                server,
                way,
                fillers.get(slot, prompt),
                step.load.new_tokens[slot] or self._own.max_tokens,
                step.load.arrivals_s[slot],
                polled,
            )
            for slot in range(len(step.rows))
        ]
        try:
            sent = await asyncio.gather(*requests)
        finally:
            done.set()
            if watcher:
                await watcher
        if server.reading.sees_batches:
            polled.after = await self._settled(server, before, sum(one.said is not None for one in sent))
        return sent, polled

    async def _one(
        self, server: Server, way: Way, asked: Asked, max_tokens: int, delay_s: float, polled: Polled
    ) -> Sent:
        await asyncio.sleep(delay_s)
        began = time.perf_counter()
        self._flying += 1
        polled.in_flight = max(polled.in_flight, self._flying)
        said, why, resent = None, "", 0
        try:
            said = await server.complete(way, asked, max_tokens)
            resent = said.resent
        except NoAnswerError as error:
            why, resent = str(error), error.resent
        except BadAnswerError as error:
            why = str(error)
        finally:
            self._flying -= 1
        return Sent(began, time.perf_counter(), said, why, resent)

    async def _watch(self, server: Server, polled: Polled, done: asyncio.Event) -> None:
        """Looks at the metrics again and again until it is done."""
        while not done.is_set():
            ours = self._flying
            reading = await server.metrics()
            if reading.sees_batches:
                polled.looks.append((time.perf_counter(), int(reading.numbers["running"]), max(ours, self._flying)))
            await asyncio.sleep(POLL_S)

    async def _settled(self, server: Server, before: Reading, finished: int) -> Reading:
        """The metrics, once they count as many finished requests as were answered; or after a while as they are."""
        until = time.perf_counter() + SETTLE_S
        while True:
            reading = await server.metrics()
            counted = reading.since(before, "finished")
            if counted is None or counted >= finished or time.perf_counter() > until:
                return reading
            await asyncio.sleep(POLL_S)

    async def _give_up_on(self, server: Server, sent: Sequence[Sent]) -> None:
        """Raises FailedError where two steps in a row gave nothing and the server does not answer at all any more."""
        self._lost = 0 if any(one.said for one in sent) else self._lost + 1
        if self._lost >= 2 and (why := await server.alive()):
            raise FailedError(f"{server.url} does not answer any more: {why}")

    def _condition(
        self, step: Step, slot: int, sent: Sequence[Sent], polled: Polled
    ) -> tuple[Condition, dict[str, object]]:
        """The condition that a sample was under, as far as it was seen, and what the observation says of it."""
        one = sent[slot]
        looks = [look for look in polled.looks if one.began <= look[0] <= one.ended]
        # A request can be over between two looks: then what was seen in its step is all that is known of it.
        sizes = {n for _, n, _ in looks if n} or {n for _, n, _ in polled.looks if n}
        finished = polled.after.since(polled.before, "finished")
        ours_finished = len(sent) + sum(each.resent for each in sent)
        foreign = any(n > ours for _, n, ours in looks) or (finished is not None and finished > ours_finished)
        fed = "cache" if polled.after.since(polled.before, "cache_hits") else ""
        seen = polled.before.sees_batches
        if step.condition != "alone":
            # A step makes at most one token of a request: more tokens than steps are proof that requests were computed together.
            steps, made = (polled.after.since(polled.before, name) for name in ("steps", "made"))
            if steps and made and made > steps and max(sizes, default=0) < 2:
                sizes = sizes | {math.ceil(made / steps)}
            together = max((sizes | {n for _, n, _ in polled.looks}), default=0)
            met = {"batch_sizes": tuple(sorted(sizes)), "as_asked": together > 1}
            return Condition(step.condition, None, slot), met if seen else {}
        here = content_hash(step.input.encode())[:12]
        if not seen:
            return Condition("alone", None, slot, here), {}
        if foreign:
            return Condition("alone", max(sizes | {2}), None, fed=fed), {
                "batch_sizes": tuple(sorted(sizes | {2})),
                "as_asked": False,
            }
        # Over before anybody looked: then its own tokens are all that the server made in that time.
        made = polled.after.since(polled.before, "made")
        if not sizes and finished == 1 and one.said and made is not None and made == one.said.made:
            sizes = {1}
        return Condition("alone", 1, slot, here, fed=fed), {"batch_sizes": tuple(sorted(sizes))}

    def _outcome(self, replica: int, step: Step, one: Sent) -> tuple[Outcome | None, str]:
        """What came, or the reason why it is missing."""
        said = one.said
        if said is None:
            return None, one.missing
        way = self._way(replica, self._asked[step.input])
        if said.id in self._ids[replica]:
            return None, "its id is that of an earlier answer: it comes from a cache, or the server names all alike"
        self._ids[replica] |= {said.id} - {""}
        logprobs = (
            None if said.logprobs is None else np.asarray(said.logprobs, np.float32 if said.exact else np.float64)
        )
        if logprobs is None and way.can["log-probabilities"] != "none":
            return None, "it has no log-probabilities, which earlier answers had"
        shared = {"logprobs": logprobs, "finish_reason": said.finish_reason, "text": said.text}
        if said.margins is not None and said.runners_up is not None:
            shared["margins"] = np.asarray(said.margins, np.float32)
            shared["runners_up"] = np.asarray(said.runners_up, np.int64)
        if way.can["token ids"] == "yes":
            if said.tokens is None:
                return None, "it has no token ids, which earlier answers had"
            if self._texts[replica].setdefault(said.tokens, said.text) != said.text:
                return None, "its text is not that of an earlier answer with the same tokens"
            return outcome(np.asarray(said.tokens, np.int64), **shared), ""
        if way.can["token ids"] == "spelled":
            if said.words is None or "".join(said.words) != said.text:
                return None, "its tokens do not spell its text, as those of earlier answers did"
            numbers = [int(content_hash(word.encode("utf-8", "surrogatepass"))[:15], 16) for word in said.words]
            return outcome(np.asarray(numbers, np.int64), words=said.words, **shared), ""
        points = np.asarray([ord(c) for c in said.text], np.int64)
        return outcome(points, finish_reason=said.finish_reason, text=said.text, unit="character"), ""

    def _fillers(self, step: Step) -> dict[int, Asked]:
        """By slot: made-up prompts, seeded by condition and slot, of the prompt's own tokens or of words."""
        prompt, made = self._asked[step.input], {}
        for slot, length in enumerate(step.rows):
            if length:
                key = int(content_hash(f"{self._spec.seed}/{step.condition}/{slot}".encode())[:16], 16)
                rng = np.random.Generator(np.random.Philox(key=key))
                if prompt.tokens:
                    made[slot] = Asked(tokens=tuple(int(t) for t in rng.choice(np.unique(prompt.tokens), length)))
                else:
                    made[slot] = Asked(text=" ".join(rng.choice(WORDS, length)))
        return made
