"""Which requests to send to a server, and when: a pure, seeded function of what was asked and of how long a lone request takes.

The server forms its batches itself and nobody counts its steps from outside, so a condition here is a *load*: what was in flight
together. Equal loads need not be equal batches. Only a lone request is a condition that can be repeated.

The first answer to a prompt is a sample of its own condition, `cold`: a server that has a prefix cache computes a prompt differently once
the cache holds it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from detcheck.condition_name import ConditionName, kind_of, named
from detcheck.errors import UsageError
from detcheck.records import Load, NotTried, Schedule, Step
from detcheck.schedules.arrivals import affordable, check_samples, chosen_slots, refuse_lost, share_out
from detcheck.schedules.batches import Plan, first_again_last
from detcheck.schedules.wanted import Wanted

# In the order in which they are tried: what provokes most for a few requests first.
DEFAULT = (
    "alone", "wave-2", "staggered-4", "ragged-4", "wave-8", "staggered-16", "ragged-16", "wave-4", "wave-16", "wave-3", "wave-9",
    "wave-17", "wave-33", "wave-64", "wave-128", "wave-256",
)  # fmt: skip
KINDS = ("alone", "cold", "wave", "staggered", "ragged", "rate")
SPAN = 0.8  # of a lone request's time within which staggered requests all arrive, so that they meet
RATE_SPAN = 3.0  # lone requests' times that a steady load lasts, at least
RATE_ROWS = (16, 64)  # requests of a steady load, at least and at most
SHARED = "a prompt's seeds are asked one after the other, and the first puts its prefix into the server's cache"
FILLER_ROWS = (
    32  # requests beyond the samples that the default may send, or as many as there are samples: they cost money
)


@dataclass(frozen=True)
class ServerLimits:
    """What the server is to be asked at most."""

    concurrency: int
    """requests in flight"""
    requests: int | None
    """that the schedule may hold; None: no limit"""
    rate: float | None
    """requests a second of a steady load; None: there is none"""
    lone_s: float
    """seconds that a lone request takes"""
    cold: int = 1
    """requests for a prompt that can be had without its prefix in a cache: the first one, or more where the server can be told so"""


def check(conditions: tuple[str, ...] | None, rate: float | None) -> None:
    """Raises UsageError for names that do not exist."""
    for name in conditions or ():
        kind, size = (made := ConditionName.parse(name)).kind, made.size
        if kind not in KINDS or (size is not None and (kind in ("alone", "cold", "rate") or size < 2)):
            raise UsageError(
                f"--conditions {name}: there is no such condition of a server. Use {', '.join(KINDS)}, or one with its number of "
                "requests, like wave-8"
            )
        if kind == "rate" and rate is None:
            raise UsageError("--conditions rate: say how many requests a second, with --load-rate")


def candidates(conditions: tuple[str, ...] | None, sizes: tuple[int, ...] | None, rate: float | None) -> list[str]:
    names = list(DEFAULT)
    if sizes is not None:
        names = (["alone"] if 1 in sizes or conditions is None or "alone" in conditions else []) + [
            named(kind, size) for size in sorted(set(sizes)) if size > 1 for kind in ("wave", "staggered", "ragged")
        ]
    if rate is not None:
        names.insert(1, "rate")
    if conditions is None:
        return names
    chosen = [name for name in names if kind_of(name) in conditions or name in conditions]
    return chosen + [name for name in conditions if "-" in name and name not in chosen]


def colds(wanted: Wanted, limits: ServerLimits) -> int:
    """Samples of each prompt that are taken cold. By default none where too few are left to repeat a lone request.

    Raises UsageError where cold was asked for and nothing is left to compare it with.
    """
    samples = wanted.samples
    if wanted.seeded:
        if "cold" in (wanted.conditions or ()):
            raise UsageError(f"--conditions cold: {SHARED}. Leave out cold, or --seeds")
        return 0
    if wanted.conditions is not None:
        if "cold" in wanted.conditions and samples <= limits.cold:
            raise UsageError(
                f"--conditions cold: takes {limits.cold} samples, and needs others to compare them with; got --samples {samples}. "
                "Ask for more samples"
            )
        return limits.cold if "cold" in wanted.conditions else 0
    return limits.cold if wanted.sizes is None and samples - limits.cold >= wanted.trials else 0


def schedule(inputs: dict[str, int], wanted: Wanted, limits: ServerLimits) -> Schedule:
    """The steps for each input (name -> its length, in words). Raises UsageError where what was asked for cannot be had."""
    samples = wanted.samples
    fillers = max(FILLER_ROWS, samples)
    if limits.requests is not None:
        fillers = min(fillers, limits.requests // len(inputs) - samples)
        if fillers < 0:
            raise UsageError(
                f"--max-requests leaves {limits.requests} for samples, and {samples} are asked for of each of {len(inputs)} prompts. "
                "Ask for fewer samples, or allow more requests"
            )
    cold = colds(wanted, limits)
    warm = replace(wanted, samples=samples - cold)
    if wanted.conditions is not None:
        others = tuple(name for name in wanted.conditions if name != "cold")
        warm = replace(warm, conditions=others or ("alone",))
    names = candidates(warm.conditions, warm.sizes, limits.rate)
    plans, not_tried = affordable(names, warm, lambda plan: impossible(plan, warm.max_tokens, limits), fillers)
    refuse_lost(plans, not_tried, warm)
    check_samples(plans, warm)
    plans = [steady(plan, limits) if plan.name == "rate" else plan for plan in plans]
    repeat_lone(plans, warm)
    share_out(plans, warm)
    if not cold and wanted.seeded:
        not_tried.append(NotTried("cold", SHARED))
    elif not cold and not wanted.by_name:
        not_tried.append(NotTried("cold", f"{samples} samples are used up"))
    elif not cold and wanted.conditions is None:
        not_tried.append(
            NotTried("cold", "left out with --batch-sizes: --conditions cold,wave asks for the first answer too")
        )
    planned = steps(inputs, plans, warm, limits, cold)
    made = first_again_last(planned, warm.fail_fast, not_tried, None, ("alone", *names))
    sent = sum(len(step.rows) for step in made.steps)
    if limits.requests is not None and sent > limits.requests:
        raise UsageError(
            f"--max-requests: this would send {sent} requests, and {limits.requests} are left for it. Ask for fewer conditions or samples"
        )
    return made


def impossible(plan: Plan, max_tokens: int, limits: ServerLimits) -> str:
    """Why this load is not to be had; "" if it is."""
    if plan.size > limits.concurrency:
        return f"at most {limits.concurrency} requests are to be in flight (--max-concurrency)"
    if kind_of(plan.name) in ("staggered", "ragged") and max_tokens < 3:
        return f"completions of {max_tokens} tokens are over before anybody joins or leaves"
    return ""


def repeat_lone(plans: list[Plan], wanted: Wanted) -> None:
    """Of the samples that are left, lone requests get as many as make them the square root of all, in place.

    Were there only two, a rare fault that strikes any request would spare them nearly always, and the load would be blamed.
    """
    left = wanted.samples - sum(plan.trials for plan in plans)
    for plan in plans:
        if plan.name == "alone":
            plan.trials += max(0, min(left, math.isqrt(wanted.samples) - plan.trials))


def steady(plan: Plan, limits: ServerLimits) -> Plan:
    """The plan of a steady load: as many requests as the rate makes in a few lone requests' times."""
    low, high = RATE_ROWS
    size = min(max(low, math.ceil(RATE_SPAN * limits.lone_s * limits.rate)), high, limits.concurrency)
    return replace(plan, size=size, ragged=True, neighbours=size // 2)


def steps(inputs: dict[str, int], plans: list[Plan], wanted: Wanted, limits: ServerLimits, cold: int = 0) -> list[Step]:
    made: list[Step] = []
    first = next(iter(inputs))
    for name, length in inputs.items():
        made += [Step(0, name, "cold", trial, (0,), load=Load((0.0,), (0,))) for trial in range(cold)]
        lone: list[Step] = []
        loaded: list[Step] = []
        for plan in plans:
            rng = random.Random(f"{wanted.seed}/{plan.name}")
            rows, load = requests(plan, length, wanted.max_tokens, limits, rng)
            (lone if plan.name == "alone" else loaded).extend(
                Step(0, name, plan.name, trial, rows, load=load) for trial in range(plan.trials)
            )
        # Repeats beyond the asked ones come at the end, so that a drift over the run would show in them.
        loaded.sort(key=lambda step: step.trial >= wanted.trials)
        taken = name == first and len(inputs) > 1 and len(lone) > 1 and not wanted.fail_fast  # by `first_again_last`
        if taken:
            made += [*spread(lone[:-1], loaded), lone[-1]]
        else:
            made += spread(lone, loaded)
    return [replace(step, index=index) for index, step in enumerate(made)]


def spread(lone: list[Step], loaded: list[Step]) -> list[Step]:
    """All of them, with the lone ones evenly among the others, the first and the last of all included.

    So a fault that lasts for a while strikes lone requests as it strikes the others: were these all at one end, it would spare them,
    and the load would be blamed.
    """
    gaps = max(1, len(lone) - 1)
    before = [round(place * len(loaded) / gaps) for place in range(len(lone))]  # steps under load before each
    made: list[Step] = []
    for count, step in enumerate((*loaded, None)):
        made += [lone[place] for place, at in enumerate(before) if at == count]
        made += [] if step is None else [step]
    return made


def requests(
    plan: Plan, length: int, max_tokens: int, limits: ServerLimits, rng: random.Random
) -> tuple[tuple[int, ...], Load]:
    """(rows: 0 for a sample, else a filler's prompt in words; when they are sent)."""
    kind, size = kind_of(plan.name), plan.size
    slots = chosen_slots(plan, rng)
    rows = [0 if slot in slots else length for slot in range(size)]
    arrivals, new_tokens = [0.0] * size, [0] * size
    if kind == "staggered":
        arrivals = [slot * SPAN * limits.lone_s / size for slot in range(size)]
    elif kind == "rate":  # open loop: gaps between arrivals are exponential, and nobody waits for an answer
        for slot in range(1, size):
            arrivals[slot] = arrivals[slot - 1] + rng.expovariate(limits.rate)
    if kind in ("ragged", "rate"):
        for order, slot in enumerate(slot for slot in range(size) if slot not in slots):
            rows[slot] = (
                length + rng.randint(1, max(1, length // 2)) if order % 2 == 0 else rng.randint(1, max(1, length))
            )
            new_tokens[slot] = rng.randint(1, max_tokens)
            if kind == "ragged" and order % 2:
                arrivals[slot] = rng.random() * SPAN * limits.lone_s
    return tuple(rows), Load(tuple(round(a, 4) for a in arrivals), tuple(new_tokens))
