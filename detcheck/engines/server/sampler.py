"""Servers as a `Sampler`: the same prompts under loads of every kind, by the deepest comparison that they allow."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from detcheck import sampling
from detcheck.counted import VLLM_NEEDS
from detcheck.engine import Question, Ran
from detcheck.engines.server.client import Client
from detcheck.engines.server.credentials import SHORT, Secrets
from detcheck.engines.server.engine import Budget, Capability, NotServedError, PromptInput, Server
from detcheck.engines.server.fillers import fillers
from detcheck.engines.server.outcome import EarlierAnswers, doubts, outcome_of
from detcheck.engines.server.send import ELSEWHERE, Request, Sent, SentStep, sample, send
from detcheck.engines.server.talk import Talk, on_its_own_history
from detcheck.environment import observe_client
from detcheck.errors import FailedError, UsageError
from detcheck.hashes import content_hash
from detcheck.judge.server import LONE
from detcheck.records import Case, Prompt, Schedule, Step, Subject
from detcheck.schedules import load
from detcheck.schedules.wanted import Wanted
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Role


class ServerSampler:
    """Servers, the prompts that they are asked, and a schedule of loads."""

    server_type = Server

    def __init__(self, spec: Spec) -> None:
        self._spec, self._own = spec, spec.options
        self._loop = asyncio.Runner()
        self._servers: list[Server] = []
        self.warnings: tuple[str, ...] = ()
        self._interrupted = False
        self._resumed = False
        self._last = ""  # condition of the step before
        self._lost = 0  # steps in a row of which nothing came
        self._before: list[EarlierAnswers] = []  # what each server has said
        # (server, prompt): has been asked for, so that its prefix may be in a cache
        self._warmed: set[tuple[int, str]] = set()

    def open(self, questions: Sequence[Question], planned: Schedule | None = None) -> Subject:
        """Raises UsageError, FailedError where a server cannot be asked."""
        try:
            self._loop.run(self._open(questions, planned))
        except BaseException:
            self.close()
            raise
        return self.subject

    def close(self) -> None:
        async def closing() -> None:
            for server in self._servers:
                await server.close()

        self._loop.run(closing())
        self._loop.close()

    async def _open(self, questions: Sequence[Question], planned: Schedule | None) -> None:
        spec, own, self._resumed = self._spec, self._own, planned is not None
        budget = Budget(own.max_requests)
        for url in own.base_url:
            keys = Secrets.read(own.header, url.credentials)
            if keys.short:
                self.warnings = (SHORT,)
            client = Client(url, keys, own.timeout, own.ca_bundle, spec.model)
            self._servers.append(self.server_type(client, spec.model, budget))
            self._before.append(EarlierAnswers())
        await asyncio.gather(*(server.look() for server in self._servers))
        names = list(dict.fromkeys(server.name for server in self._servers))
        if len(names) > 1:
            raise UsageError(f"--model: the servers have {', '.join(names)}. Say which model to ask all of them for")
        asked = self.inputs(questions)
        # What a server can do is found out with other prompts: the first answer to each of these is a sample.
        others = [one.stand_in() for one in asked]
        self._ways = [await self._ways_of(server, others) for server in self._servers]
        self._refuse_unseeded()
        asked = [await self._with_tokens(one) for one in asked]
        lone_s = await self._lone_seconds(others[0])
        inputs = {self._name(index, one): one for index, one in enumerate(asked)}
        plain = [
            Prompt(n, questions[index].shown, one.tokens, later=((),) * len(one.later))
            for index, (n, one) in enumerate(inputs.items())
        ]
        prompts = sampling.with_seeds(plain, spec)
        self._asked = {
            p.name: replace(inputs[sampling.parted(p.name)[0]], sampling=sampling.of(spec, p.seed)) for p in prompts
        }
        several = len(self._servers) > 1
        cases = [
            (Case(spec.probe, names[0], self._kernels(server), "", p.name, n if several else 0), Role.GATES)
            for n, server in enumerate(self._servers, 1)
            for p in prompts
        ]
        schedule = planned or self._plan(prompts, lone_s, budget)
        environment = observe_client("a server", self._flags())
        self.subject = Subject(names[0], "", {}, prompts, schedule, environment, tuple(cases))

    def inputs(self, questions: Sequence[Question]) -> list[PromptInput]:
        """What is sent for each of them."""
        return [PromptInput(text=q.text, messages=q.messages, later=q.later) for q in questions]

    async def _ways_of(self, server: Server, asked: Sequence[PromptInput]) -> dict[str, Capability]:
        """How each kind of prompt is asked for at a server: {"completions": ..., "chat": ...}, those that are needed."""
        ways: dict[str, Capability] = {}
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
                tokens = await server.tokenize(one.text)
                same = bool(tokens) and said.prompt_tokens in (None, tokens)
                takes = same and await server.takes_ids(ways[endpoint], tokens)
                ways[endpoint] = replace(
                    ways[endpoint],
                    takes_ids=takes,
                    can={**ways[endpoint].can, "echo": echo, "prompt": "as token ids" if takes else "as text"},
                )
        return ways

    def _refuse_unseeded(self) -> None:
        """Raises UsageError where tokens are to be drawn with seeds that a server does not take."""
        for server, ways in zip(self._servers, self._ways, strict=True):
            if getattr(self._spec.options, "seeds", 0) and any(way.can["seed"] == "refused" for way in ways.values()):
                raise UsageError(
                    f"--seeds: {server.url} refuses a seed, so that the same tokens cannot be asked of it twice. Ask at temperature 0"
                )

    def _way(self, replica: int, one: PromptInput) -> Capability:
        return self._ways[replica]["chat" if one.messages or self._own.chat else "completions"]

    async def _with_tokens(self, one: PromptInput) -> PromptInput:
        """The prompt as token ids, where every server takes them: then all are asked exactly the same."""
        if not all(self._way(n, one).takes_ids for n in range(len(self._servers))):
            return one
        return replace(one, tokens=await self._servers[0].tokenize(one.text))

    async def _lone_seconds(self, one: PromptInput) -> float:
        """That a lone request takes, at the slowest server."""
        slowest = 0.0
        for replica, server in enumerate(self._servers):
            took, said = await server.time(self._way(replica, one), one, self._own.max_tokens)
            self._before[replica].canned(said, one)
            self._before[replica].one_text.take(said, one)
            slowest = max(slowest, took)
            server.reading = await server.metrics()
        return slowest

    async def _warm(self, replica: int, step: Step) -> None:
        """Before the first request that is not to be cold, where none was sent: in a resumed run, or without the condition."""
        place = replica, step.input
        if place not in self._warmed and step.condition != "cold":
            with contextlib.suppress(FailedError):  # the samples themselves will say why nothing comes
                await self._servers[replica].time(
                    self._way(replica, self._asked[step.input]), self._asked[step.input], 1
                )
        self._warmed.add(place)

    def _name(self, index: int, one: PromptInput) -> str:
        said = (one.text, one.messages, one.later) if one.later else (one.text, one.messages)
        payload = np.asarray(one.tokens, "<i8").tobytes() if one.tokens else repr(said).encode()
        return f"{index}:{content_hash(payload)[:8]}"

    def _kernels(self, server: Server) -> str:
        ours = all(server.reading.calls.get(name) for name in VLLM_NEEDS)
        return str(Kernels.BATCH_INVARIANT if ours else Kernels.STOCK)

    def _plan(self, prompts: Sequence[Prompt], lone_s: float, budget: Budget) -> Schedule:
        """The same steps at every server, one server after the other."""
        spec, own, servers = self._spec, self._own, len(self._servers)
        most_turns = max(p.turns for p in prompts)
        left = None if budget.most is None else (budget.most - budget.sent) // servers // most_turns
        # vLLM computes a prompt again under another cache_salt, so that its cold answer can be repeated.
        cold = spec.trials if all(server.reading.kind == "vLLM" for server in self._servers) else 1
        limits = load.ServerLimits(own.max_concurrency, left, own.load_rate, lone_s, cold)
        wanted = Wanted.of(spec)
        if left is not None and not load.colds(wanted, limits):
            limits = replace(limits, requests=left - len(prompts))  # each is asked for once before it counts
        lengths = {p.name: len(p.token_ids) or max(1, len(p.text.split())) for p in prompts}
        one = load.schedule(lengths, wanted, limits)
        place = {p.name: index for index, p in enumerate(prompts)}
        turns = {p.name: p.turns for p in prompts}
        steps = [
            replace(s, case=n * len(prompts) + place[s.input], turns=turns[s.input])
            for n in range(servers)
            for s in one.steps
        ]
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

    def run(self, step: Step) -> Ran:
        """Send the step's requests at their times.

        Raises KeyboardInterrupt at the step after the one that Ctrl-C cut short, whose answers are kept.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        return self._loop.run(self._run(step))

    async def _run(self, step: Step) -> Ran:
        case, _ = self.subject.cases[step.case]
        replica = max(case.replica - 1, 0)
        server, prompt = self._servers[replica], self._asked[step.input]
        way = self._way(replica, prompt)
        # Each over its own connection: a balancer may keep a connection to one server.
        if LONE in (step.condition, self._last):
            await server.close()
        self._last = step.condition
        await self._warm(replica, step)
        talks = {slot: Talk(prompt) for slot, length in enumerate(step.rows) if length == 0}
        sent: list[SentStep] = []
        for turn, later in enumerate((*prompt.later, ())):
            sent.append(await self._turn(step, turn, talks, server, way, later))
            self._interrupted = sent[-1].interrupted
            await self._give_up_on(server, sent[-1].sent)
            if self._interrupted or not any(talk.goes_on for talk in talks.values()):
                break
        samples = [talk.sample(step.turns) for talk in talks.values()]
        set_aside = sum(int(seen.grown("preemptions") or 0) for seen in sent)
        samples[0] = replace(samples[0], preemptions=set_aside)
        resent = sum(each.resent for seen in sent for each in seen.sent)
        in_flight = float(max(seen.in_flight for seen in sent))
        metrics = [("in_flight", in_flight), *([("resent", float(resent))] if resent else [])]
        metrics += [(name, float(n)) for name, n in sum((seen.doubtful for seen in sent), Counter()).items()]
        return Ran(tuple(samples), sent[-1].after.calls_since(sent[0].before), metrics=tuple(metrics))

    async def _turn(
        self,
        step: Step,
        turn: int,
        talks: Mapping[int, Talk],
        server: Server,
        way: Capability,
        later: Sequence[Mapping[str, str]],
    ) -> SentStep:
        """All requests of the step's turn, from 0, by those that still go on. `later`: what follows the answers."""
        replica, cold = self._servers.index(server), step.condition == "cold"
        # A run that was killed may have asked for it, and not have stored that.
        salted = cold and server.reading.kind == "vLLM" and bool(turn or step.trial or self._resumed)
        perhaps_warm = cold and self._resumed and not (salted or turn)
        salt = secrets.token_hex(8) if salted else ""
        asked = {slot: replace(talk.asked, salt=salt) for slot, talk in talks.items() if talk.goes_on}
        asked = dict(sorted((asked | fillers(self._spec, step, self._asked[step.input].tokens, turn)).items()))
        requests = [
            Request(one, step.load.new_tokens[slot] or self._own.max_tokens, step.load.arrivals_s[slot])
            for slot, one in asked.items()
        ]
        seen = await send(server, way, requests)
        for slot, one in zip(asked, seen.sent, strict=True):
            if slot in talks:
                found, why = (
                    outcome_of(one.said, way, self._before[replica], asked[slot]) if one.said else (None, one.missing)
                )
                if found and not seen.all_computed:
                    found, why = None, ELSEWHERE
                made = sample(step, slot, one, seen, self._spec.batch_sizes is not None, found, why)
                made = on_its_own_history(made) if cold and turn and not salted else made
                if perhaps_warm and seen.grown("cache_hits") is None:
                    made = replace(made, as_asked=False)
                talks[slot].take(made, one.said, seen, later)
            if one.said:
                limit = self._own.max_tokens if slot in talks else None
                seen.doubtful.update(doubts(one.said, asked[slot], self._before[replica], limit, self._own.ignore_eos))
        return seen

    async def _give_up_on(self, server: Server, sent: Sequence[Sent]) -> None:
        """Raises FailedError where two steps in a row gave nothing and the server does not answer at all any more."""
        self._lost = 0 if any(one.said for one in sent) else self._lost + 1
        if self._lost >= 2 and (why := await server.alive()):
            raise FailedError(f"{server.url} does not answer any more: {why}")
