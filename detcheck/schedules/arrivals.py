"""Which requests to send to an engine that forms its batches itself, and when: a pure, seeded function of what was asked.

N copies submitted at once prove nothing there: they are computed in step, and come out equal. What provokes is the schedule:
waves of different size, arrivals one by one, neighbours that leave and join while a sample is decoded, prompts cut in chunks,
a prefix that is in the cache already, neighbours around the sizes of blocks and splits. Arrivals are counted in engine steps,
so that a condition can be repeated exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from detcheck.condition_name import ConditionName, kind_of, named
from detcheck.engine import Decoded
from detcheck.errors import UsageError
from detcheck.records import NotTried, Schedule, Step, Traffic
from detcheck.schedules.batches import Plan, first_again_last, spread
from detcheck.schedules.wanted import Wanted

# In the order in which they are tried: what provokes most for a few samples first.
DEFAULT = (
    "alone", "wave-2", "staggered-4", "ragged-4", "chunked-1", "cached-1", "edges-8", "wave-4", "wave-8", "staggered-16", "ragged-16",
    "chunked-8", "cached-8", "wave-3", "wave-9", "wave-16", "wave-17", "wave-33", "wave-64", "wave-128", "wave-256",
)  # fmt: skip
KINDS = ("alone", "wave", "staggered", "ragged", "chunked", "cached", "edges")
COLD = "cold"  # of conversations: a lone one, each turn of which is computed without its history in the prefix cache
FILLER_ROWS = 256  # rows beyond the samples that the default may compute, so that few samples still meet large batches
EDGES = (127, 129, 255, 257, 128, 256, 511, 513)  # tokens around blocks and splits of the KV cache
LONGEST = max(EDGES)
CHUNK = 64  # tokens that a step may compute where prompts are cut in chunks
GAP = 3  # engine steps between arrivals, where the completions are long enough for all to meet


@dataclass(frozen=True)
class EngineLimits:
    """What the engine can hold."""

    max_rows: int
    """requests at once"""
    token_budget: int
    """tokens of an engine step"""
    cache_block: int
    """tokens of a block of the prefix cache; 0: it keeps no prefixes"""
    room: int
    """tokens that a filler's prompt may have"""
    uncut: str = ""
    """why it cuts no prompt in chunks; "": it does"""
    history: int = 0
    """tokens that the prompt of a conversation's last turn may have; 0: there are no conversations"""


def check(conditions: tuple[str, ...] | None) -> None:
    """Raises UsageError for names that do not exist."""
    for name in conditions or ():
        kind, size = (made := ConditionName.parse(name)).kind, made.size
        least = 1 if kind in ("chunked", "cached") else 2
        if kind not in (*KINDS, COLD) or (size is not None and (kind in ("alone", COLD) or size < least)):
            raise UsageError(
                f"--conditions {name}: there is no such condition. Use {', '.join(KINDS)}, prefill, fresh (of conversations {COLD} too), or one with its number of requests, like wave-8, or chunked-1-tokens-16"
            )
        if made.tokens is not None and made.tokens <= size:
            raise UsageError(
                f"--conditions {name}: {size} requests need more than {made.tokens} tokens a step, one each and some of a prompt"
            )


def candidates(conditions: tuple[str, ...] | None, sizes: tuple[int, ...] | None, turns: bool = False) -> list[str]:
    """Names of the conditions to try. `sizes` replaces the default numbers of requests; `turns`: of conversations."""
    names = list(DEFAULT)
    if sizes is not None:
        several = [size for size in sorted(set(sizes)) if size > 1]
        names = (["alone"] if 1 in sizes or conditions is None or "alone" in conditions else []) + [
            named(kind, size) for size in several for kind in KINDS[1:] if kind not in ("chunked", "cached", "edges")
        ]
        names += [named(kind, size) for kind in ("chunked", "cached") for size in (1, *several[:1])] + ["edges-8"]
    if turns or COLD in (conditions or ()):
        names.insert(1, COLD)
    if conditions is None:
        return names
    chosen = [name for name in names if kind_of(name) in conditions or name in conditions]
    return chosen + [name for name in conditions if "-" in name and name not in chosen]


def schedule(inputs: dict[str, int], wanted: Wanted, limits: EngineLimits) -> Schedule:
    """The steps for each input (name -> its length in tokens). Raises UsageError where what was asked for cannot be had."""
    shortest, length = min(inputs.values()), max(inputs.values())
    names = candidates(wanted.conditions, wanted.sizes, limits.history > 0)
    plans, not_tried = affordable(
        names, wanted, lambda plan: impossible(plan, shortest, length, wanted.max_tokens, limits)
    )
    refuse_lost(plans, not_tried, wanted)
    check_samples(plans, wanted)
    share_out(plans, wanted)
    return first_again_last(steps(inputs, plans, wanted, limits), wanted.fail_fast, not_tried, limits.max_rows)


def affordable(
    names: Sequence[str], wanted: Wanted, impossible: Callable[[Plan], str], filler_rows: int = FILLER_ROWS
) -> tuple[list[Plan], list[NotTried]]:
    """The conditions that can be had and paid for, in order, and what was left out, with the reason.

    `filler_rows`: requests beyond the samples that the default may send.
    """
    plans: list[Plan] = []
    not_tried: list[NotTried] = []
    samples, trials, asked = wanted.samples, wanted.trials, wanted.by_name
    rows_left = samples + filler_rows
    for name in names:
        size = ConditionName.parse(name).size or 1
        mixed = kind_of(name) in ("ragged", "edges")
        plan = Plan(name, size, mixed, trials, neighbours=max(1, size // 2))
        if why := impossible(plan):
            not_tried.append(NotTried(name, why))
        elif not asked and (len(plans) + 1) * trials > samples:
            not_tried.append(NotTried(name, f"{samples} samples are used up"))
        elif not asked and plan.size * trials > rows_left:
            not_tried.append(NotTried(name, f"would cost more than {filler_rows} requests beyond the samples"))
        else:
            plans.append(plan)
            rows_left -= plan.size * trials
    return plans, not_tried


def refuse_lost(plans: Sequence[Plan], not_tried: Sequence[NotTried], wanted: Wanted) -> None:
    """Raises UsageError where something that was asked for by name cannot be had."""
    for name in wanted.conditions or ():
        if not any(name in (plan.name, kind_of(plan.name)) for plan in plans):
            why = [left_out for left_out in not_tried if name in (left_out.what, kind_of(left_out.what))]
            lost = why[0] if why else f"{name} with --batch-sizes {','.join(map(str, wanted.sizes or ()))}"
            raise UsageError(f"--conditions: cannot have {lost}")
    if wanted.sizes is not None and (
        lost := [str(left_out) for left_out in not_tried if kind_of(left_out.what) == "wave"]
    ):
        raise UsageError(f"--batch-sizes: cannot have {'; '.join(lost)}. Ask for smaller sizes, or fewer --max-tokens")


def check_samples(plans: Sequence[Plan], wanted: Wanted) -> None:
    """Raises UsageError where the samples do not suffice for what was asked for by name."""
    samples, trials = wanted.samples, wanted.trials
    if wanted.by_name and len(plans) * trials > samples:
        raise UsageError(
            f"{len(plans)} conditions repeated {trials} times need at least {len(plans) * trials} samples; got --samples {samples}. "
            "Ask for more samples or fewer conditions"
        )


def share_out(plans: list[Plan], wanted: Wanted) -> None:
    """Gives every sample a place, in place."""
    if plans:
        spread(plans, wanted.samples - sum(plan.trials for plan in plans))
    else:  # fewer samples than trials: nothing can be repeated, and the judge will say so
        plans.append(Plan("alone", 1, False, wanted.samples))


def impossible(plan: Plan, shortest: int, length: int, max_tokens: int, limits: EngineLimits) -> str:
    """Why this condition cannot come about with these prompts on this engine; "" if it can."""
    kind = kind_of(plan.name)
    if plan.size > limits.max_rows:
        return f"the engine holds {limits.max_rows} requests of this length at once (--engine-arg max_num_seqs, kv_cache_memory_bytes)"
    late = f"the first would have ended before the last came in (--max-tokens {max_tokens}, {limits.token_budget} tokens a step)"
    if kind in ("wave", "edges"):
        others = edge_lengths(limits) if kind == "edges" else [length]
        soonest, *rest = sorted([length, *(others[n % len(others)] for n in range(plan.size - 1))])
        if not all_meet([soonest, *reversed(rest)], max_tokens, limits):  # in no order do they need longer
            return late
    else:
        joining = max(1, limits.token_budget // length)  # prompts that one engine step takes in
        if kind != "alone" and plan.size > 1 and plan.size > joining * max(1, max_tokens - 1):
            return late
    if kind == "chunked" and limits.uncut:
        return limits.uncut
    if kind == "chunked" and shortest < 2:
        return "the prompt has a single token, which cannot be cut"
    if (tokens := ConditionName.parse(plan.name).tokens) and tokens >= shortest:
        return f"the prompt's {shortest} tokens fit into one chunk"
    if kind in ("cached", COLD) and not limits.cache_block:
        return "the engine keeps no prefix cache"
    if kind == COLD and not limits.history:
        return "a first turn is cold anyway; this is about the later ones of a conversation (--turns)"
    if kind == COLD and limits.history <= limits.cache_block:
        return f"the {limits.history} tokens of the last turn's prompt do not fill a block of {limits.cache_block} in the prefix cache"
    if kind == "cached" and shortest <= limits.cache_block:
        return f"the prompt's {shortest} tokens do not fill a block of {limits.cache_block} in the prefix cache and one more"
    if kind in ("staggered", "ragged") and max_tokens < 3:
        return f"completions of {max_tokens} tokens are over before anybody joins or leaves"
    if kind == "ragged" and limits.room <= length:
        return "the context has no room for neighbours longer than the prompt"
    return ""


def all_meet(prompts: Sequence[int], max_tokens: int, limits: EngineLimits) -> bool:
    """Whether an engine step computes all of these requests, first come, first served. `prompts`: tokens of each."""
    left, made = list(prompts), [0] * len(prompts)
    while max(made) < max_tokens:
        tokens, computed = limits.token_budget, 0
        for n, to_read in enumerate(left):
            part = min(max(to_read, 1), tokens)
            if not part or (limits.uncut and part < to_read):
                break
            tokens, computed, left[n] = tokens - part, computed + 1, max(to_read - part, 0)
            made[n] += not left[n]
        if computed in (0, len(prompts)):
            return computed > 0
    return False


def edge_lengths(limits: EngineLimits) -> list[int]:
    """Tokens of the neighbours' prompts."""
    return [n for n in EDGES if n <= limits.room] or [limits.room]


def steps(inputs: dict[str, int], plans: list[Plan], wanted: Wanted, limits: EngineLimits) -> list[Step]:
    made: list[Step] = []
    for name, length in inputs.items():
        first: list[Step] = []
        late: list[Step] = []
        for plan in plans:
            rng = random.Random(f"{wanted.seed}/{neighbours(plan.name)}")
            rows, traffic = requests(plan, length, wanted.max_tokens, limits, rng)
            for trial in range(plan.trials):
                (late if trial >= wanted.trials else first).append(
                    Step(0, name, plan.name, trial, rows, traffic=traffic)
                )
        # Repeats beyond the asked ones come at the end, so that a drift over the run would show in them.
        made += first + late
    return [replace(step, index=index) for index, step in enumerate(made)]


def requests(
    plan: Plan, length: int, max_tokens: int, limits: EngineLimits, rng: random.Random
) -> tuple[tuple[int, ...], Traffic]:
    """(rows: 0 for a sample, else a filler's prompt in tokens; how they arrive)."""
    kind, size = kind_of(plan.name), plan.size
    slots = chosen_slots(plan, rng)
    rows = [0 if slot in slots else length for slot in range(size)]
    arrivals, new_tokens = [0] * size, [0] * size
    if kind == "staggered":
        gap = max(1, min(GAP, (max_tokens - 1) // size))
        arrivals = [slot * gap for slot in range(size)]
    elif kind == "ragged":
        for order, slot in enumerate(slot for slot in range(size) if slot not in slots):
            longer = min(limits.room, length + rng.randint(1, max(1, length // 2)))
            shorter = rng.randint(max(1, length // 2), max(1, length - 1))
            rows[slot] = longer if order % 2 == 0 else shorter
            # Half of them leave early and the batch shrinks; the others join later and it grows.
            if order % 2 == 0:
                new_tokens[slot] = rng.randint(1, max(1, max_tokens // 2))
            else:
                arrivals[slot] = rng.randint(1, max(1, max_tokens // 2))
    elif kind == "edges":
        lengths = edge_lengths(limits)
        for order, slot in enumerate(slot for slot in range(size) if slot not in slots):
            rows[slot] = lengths[order % len(lengths)]
    usual = max(size + 1, min(CHUNK, max(1, length // 3))) if kind == "chunked" else None
    budget = ConditionName.parse(plan.name).tokens or usual
    return tuple(rows), Traffic(tuple(arrivals), tuple(new_tokens), budget, kind == "cached")


def chosen_slots(plan: Plan, rng: random.Random) -> set[int]:
    """Samples stand first, last and in between; among fillers of other lengths, in between."""
    inner = range(1, plan.size - 1) if plan.ragged and plan.size > 2 else range(plan.size)
    ends = [inner[0], inner[-1]] if plan.samples > 1 else [rng.choice(inner)]
    others = [slot for slot in inner if slot not in ends]
    return {*ends, *rng.sample(others, plan.samples - len(set(ends)))} if plan.samples > 1 else set(ends)


def neighbours(condition: str) -> str:
    """What the neighbours of a condition are drawn by: those that differ only in how they are fed have the same ones."""
    made = ConditionName.parse(condition)
    return (
        named("wave", made.size or 1)
        if made.kind in ("alone", "wave", "chunked", "cached", "adapters", COLD)
        else condition
    )


def fed(condition: str) -> str:
    """`Condition.fed` of a condition's requests."""
    return {"chunked": "chunk", "cached": "cache", COLD: "cache", "adapters": "adapters"}.get(kind_of(condition), "")


def came_about(condition: str, size: int, slot: int, decoded: Decoded) -> bool:
    """Whether the engine's steps were what the condition is about, for the request at `slot`. `size`: requests that were sent."""
    kind, trace = kind_of(condition), decoded.traces[slot]
    met = {requests for requests, _ in decoded.steps}
    if kind in ("cached", COLD):
        return (trace.cached > 0) is (kind == "cached")
    if kind == "prefill":
        return trace.chunks == 1 and not trace.cached
    if kind == "chunked":
        return any(other.chunks > 1 for other in decoded.traces.values())
    if kind in ("staggered", "ragged"):
        return len(met) > 1 and max(met) > 1
    if kind == "adapters" and trace.adapters < 2:
        return False
    return max(met, default=0) == size
