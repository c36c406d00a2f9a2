"""What reports say of completions: as of samples, and of conversations by turn: survival, histogram, prompts, prefix cache. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from detcheck import samples
from detcheck.blocks import Block, Facts, Histogram, Survival, Table, Totals
from detcheck.condition_name import ConditionKind, kind_of
from detcheck.finding import Finding
from detcheck.text import percent

LEAVES = {"partings": "answer leaves the mode", "partings_bits": "log-probability bits or end leave the mode"}


def describe(finding: Finding) -> tuple[Block, ...]:
    """Of a conversation the histogram is by turn, and a table follows what all samples have."""
    talk = finding.evidence.get("turns")
    if not talk:
        return samples.describe(finding)
    blocks = samples.describe(finding, first=survival(talk))
    by_turn = [Table("Turns", lines(talk), names_first=False)]
    kind, leaving = next(((k, p) for k in LEAVES if (p := talk.get(k))), ("", ()))
    if leaving:
        turns: Counter[int] = Counter()
        for turn, _, count in leaving:
            turns[turn] += count
        by_turn.insert(0, Histogram(f"First turn whose {LEAVES[kind]}", tuple(sorted(turns.items()))))
    if leaving and not talk["broken_off"]:
        by_turn.insert(1, still_the_same(talk))
    others = [block for block in blocks if not isinstance(block, Histogram | Survival)]
    place = sum(isinstance(block, Totals | Facts) for block in others)
    return (*others[:place], *by_turn, *others[place:])


def survival(talk: Mapping[str, object]) -> tuple[str, ...]:
    """A fact a line."""
    if not any(talk["samples"]):
        return ()
    said = [
        f"after turn {turn} {percent(same / of)}"
        for turn, (same, of) in enumerate(zip(talk["same"], talk["samples"], strict=True), 1)
        if of
    ]
    lines = [f"of conversations of {talk['asked']} turns are still the same: {', '.join(said)}"]
    if broken := talk["broken_off"]:
        lines.append(f"{broken} conversations broke off; the turns that they have count here")
    return tuple(lines)


def still_the_same(talk: Mapping[str, object]) -> Survival:
    """Along the turns."""
    compared = {"tokens": "same", "log-probabilities and ends too": "same_bits"}
    steps = ((what, tuple(enumerate(talk[key], 1))) for what, key in compared.items())
    return Survival(
        "Conversations that are still the most common one", "turn", talk["samples"][0], talk["asked"], tuple(steps)
    )


def lines(talk: Mapping[str, object]) -> tuple[tuple[str, ...], ...]:
    """A line for each turn, after a heading."""
    sizes: Mapping[str, list[list[list[int] | None]]] = talk["prompts"]
    heading = ["turn", "samples", "same tokens", "same bits", "first token that differs", "prompt tokens"]
    cold = {name: turns for name, turns in sizes.items() if kind_of(name) == ConditionKind.COLD}
    warm = {name: turns for name, turns in sizes.items() if name not in cold}
    ways = [way for way in ((warm, "from the prefix cache"), (cold, "cold: from the prefix cache")) if cached(way[0])]
    table = [(*heading, *(title for _, title in ways))]
    for n in range(talk["asked"]):
        first = [token for turn, token, _ in talk.get("partings") or talk.get("partings_bits") or () if turn == n + 1]
        table.append(
            (
                str(n + 1),
                str(talk["samples"][n]),
                *(str(talk[name][n]) if name in talk else "0" for name in ("same", "same_bits")),
                str(min(first)) if first else "",
                between(turns[n][0] for turns in sizes.values() if len(turns) > n),
                *(between(turns[n][1] for turns in way.values() if len(turns) > n) for way, _ in ways),
            )
        )
    return tuple(table)


def cached(sizes: Mapping[str, list[list[list[int] | None]]]) -> bool:
    """Whether it is known of any turn what came from the prefix cache."""
    return any(known is not None for turns in sizes.values() for _, known in turns)


def between(ranges: object) -> str:
    """ "60", or "60 to 75"; "" where none is known."""
    known = [one for one in ranges if one is not None]
    if not known:
        return ""
    low, high = min(one[0] for one in known), max(one[1] for one in known)
    return str(low) if low == high else f"{low} to {high}"
