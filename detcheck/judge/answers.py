"""What a server's answers say of themselves, and why equal ones are no pass then. Pure.

The sampler counts them (`Ran.metrics`, by these names). They are samples all the same: where they differ, that is a divergence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

CUT_SHORT, STOPPED, CANNED, ALIKE = "cut_short", "stopped", "canned", "alike"
VARIED = "varied"  # an answer that came later and was another one, which clears those that were `ALIKE`
WHY = {
    CUT_SHORT: "{n} completions say that they are as long as was asked for, and are shorter: the server cuts them off at a length of its own, or its "
    "context is full, so what follows was not compared. Ask for fewer --max-tokens",
    STOPPED: "{n} completions stopped at an end, though --ignore-eos asked to go on: the server does not take it. Leave it out",
    CANNED: "{n} answers have the very log-probabilities of an answer to another prompt, so they were not computed from what was asked: a cache, or "
    "something in the model's place, gave them",
    ALIKE: "{n} answers, and all before them, are one text, whatever was asked: nothing shows that the prompts were read. Ask what has other answers",
}
COUNTED = (*WHY, VARIED)


def seen(counted: Mapping[str, int]) -> dict[str, object]:
    """Evidence; {} where there is nothing to say."""
    cleared = {VARIED, ALIKE} if VARIED in counted else {VARIED}
    found = {name: n for name, n in counted.items() if name not in cleared}
    return {"doubtful_answers": found} if found else {}


def doubts(evidence: Mapping[str, object]) -> Iterator[str]:
    """Why equal answers are no pass."""
    for name, n in evidence.get("doubtful_answers", {}).items():
        yield WHY[name].format(n=n)
