"""Causes, replaced by our kernels one kind at a time: how the first difference moves on, until there is none."""

from __future__ import annotations

from typing import Any

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.op import replaceable
from detcheck.probes.bisect import judge as culprits
from detcheck.probes.bisect.transformers import LONE, Batch, Bisection
from detcheck.switch import batch_invariant


def stages(
    facts: dict[str, Any],
    engine: TransformersEngine,
    prompt: tuple[int, ...],
    batches: tuple[Batch, ...],
    decoded: int,
    trials: int,
) -> list[dict[str, Any]]:
    """What was found after each replacement, the state with none first."""
    replaced: list[str] = []
    made = [stage(facts, replaced)]
    while True:
        wanted = [replaceable(kind["op"]) for kind in culprits.causes(facts)]
        following = next((name for name in wanted if name and name not in replaced), None)
        if following is None:
            return made
        replaced.append(following)
        with batch_invariant(only=frozenset(replaced)):
            bisection = Bisection(engine, prompt, batches, decoded, trials, trials)
            bisection.run()
        facts = bisection.facts()
        made.append(stage(facts, replaced))


def stage(facts: dict[str, Any], replaced: list[str]) -> dict[str, Any]:
    guilty = culprits.causes(facts)
    logits = facts["logits"]
    return {
        "replaced": list(replaced),
        "first": {name: guilty[0]["first"][name] for name in ("op", "path", "step")} if guilty else None,
        "guilty": [f"{kind['op']} {kind['pattern']}" for kind in guilty],
        "logits_equal": len({bits for found in logits.values() for bits in found}) == 1 and LONE in logits,
    }
