"""Causes, replaced by our kernels one kind at a time: how the first difference moves on, until there is none."""

from __future__ import annotations

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.op import replaceable
from detcheck.probes.bisect.causes import causes
from detcheck.probes.bisect.collect import LONE
from detcheck.probes.bisect.facts import Bisected, Stage
from detcheck.probes.bisect.transformers import Bisection, FormedBatch
from detcheck.switch import batch_invariant


def stages(
    facts: Bisected,
    engine: TransformersEngine,
    prompt: tuple[int, ...],
    batches: tuple[FormedBatch, ...],
    decoded: int,
    trials: int,
) -> tuple[Stage, ...]:
    """What was found after each replacement, the state with none first."""
    replaced: list[str] = []
    made = [stage(facts, replaced)]
    while True:
        wanted = [replaceable(cause.kind.op) for cause in causes(facts)]
        following = next((name for name in wanted if name and name not in replaced), None)
        if following is None:
            return tuple(made)
        replaced.append(following)
        with batch_invariant(only=frozenset(replaced)):
            bisection = Bisection(engine, prompt, batches, decoded, trials, trials)
            bisection.run()
        facts = bisection.facts()
        made.append(stage(facts, replaced))


def stage(facts: Bisected, replaced: list[str]) -> Stage:
    found, logits = causes(facts), facts.logits
    first = {name: getattr(found[0].kind.first, name) for name in ("op", "path", "step")} if found else None
    equal = len({bits for hashes in logits.values() for bits in hashes}) == 1 and LONE in logits
    return Stage(tuple(replaced), first, tuple(f"{each.kind.op} {each.kind.pattern}" for each in found), equal)
