"""What bits depend on, by conditions that repeat themselves: the batch, the slot, the neighbours, padding, the cache, threads. Pure."""

from __future__ import annotations

from collections import defaultdict

from detcheck.condition_name import ConditionKind, kind_of
from detcheck.judge.tally import Tally, batch_arm, settled
from detcheck.records import Condition


def varies_with(tally: Tally) -> list[str]:
    """What alone, with the rest held equal, goes with other bits: batch, slot, neighbours, cache. From conditions that repeat themselves."""
    aspects, usual_differ = set(), False
    for steady in settled(tally):
        usual = {c: outcome for c, outcome in steady.items() if not otherwise(c)}
        for aspect, (held, changed) in ASPECTS.items():
            groups: dict[object, list[tuple[object, str]]] = defaultdict(list)
            for condition, outcome in steady.items():
                if condition.name != ConditionKind.COLD and (group := held(condition)) is not None:
                    groups[group].append((changed(condition), outcome))
            if any(min(len(set(column)) for column in zip(*group, strict=True)) > 1 for group in groups.values()):
                aspects.add(aspect)
        by_place = {place(c): outcome for c, outcome in usual.items()}
        lone = {c.threads: outcome for c, outcome in usual.items() if c.batch_size == 1}
        for condition, outcome in steady.items():
            if condition.fed == "padding":  # its composition says how much, so that no other condition has the same
                if lone.get(condition.threads, outcome) != outcome:
                    aspects.add("padding")
            elif otherwise(condition) and by_place.get(place(condition), outcome) != outcome:
                aspects.add(otherwise(condition))
        usual_differ |= len(set(usual.values())) > 1
    if only_padding(tally):
        aspects -= {"batch", "slot", "neighbours"}
    elif (usual_differ and aspects <= set(LONE)) or (not aspects and batch_arm(tally)):
        aspects.add("batch or slot")  # they never changed one at a time
    return sorted(aspects)


LONE = ("prefill", "process")  # aspects of the prompt alone


def only_padding(tally: Tally) -> bool:
    """Whether the prompt alone has other bits once it is padded, and batches without padding change nothing."""
    found = by_place(tally)
    lone = found["plain alone"]
    return len(lone) == 1 and bool(found["padded alone"] - lone) and found["plain batch"] == lone


def only_ragged(tally: Tally) -> bool:
    """Whether batches of equal lengths change nothing, nor does padding where it was asked for alone, and batches of unequal lengths do."""
    found = by_place(tally)
    lone = found["plain alone"]
    return (
        len(lone) == 1
        and found["padded alone"] <= lone
        and found["plain batch"] == lone
        and bool(found["padded batch"] - lone)
    )


def by_place(tally: Tally) -> dict[str, set[str]]:
    """Outcomes of the prompt, plain or padded, alone or in a batch: "plain alone" -> ... Engines that form their batches do not pad."""
    found: dict[str, set[str]] = defaultdict(set)
    for condition, outcomes in tally.conditions.items():
        if condition.fed not in ("", "padding") or condition.trace or condition.batch_size is None:
            continue
        padded = condition.fed == "padding" or kind_of(condition.name) == "ragged"
        alone = condition.batch_size == 1
        found[f"{'padded' if padded else 'plain'} {'alone' if alone else 'batch'}"] |= set(outcomes)
    return found


def otherwise(c: Condition) -> str:
    """In what the row was fed otherwise than usual; "" where it was not. A cold prompt is not in the prefix cache."""
    return c.fed or ("cache" if c.name == ConditionKind.COLD else "")


def place(c: Condition) -> tuple[object, ...]:
    return c.batch_size, c.slot, c.composition, c.threads


OTHERS_BESIDE = (
    ConditionKind.MIXED,
    ConditionKind.HOSTILE,
)  # as many rows of the same length, with other numbers in them
SAME_LENGTHS = (ConditionKind.BATCH, ConditionKind.ROWS, *OTHERS_BESIDE)


def place_in_batch(c: Condition) -> tuple[object, ...] | None:
    """Where the row is among rows of its own length, whatever these hold; None where nobody knows that they are."""
    return (c.batch_size, c.slot, c.threads, c.fed) if kind_of(c.name) in SAME_LENGTHS and not c.trace else None


def plain(c: Condition) -> bool:
    return c.fed != "padding" and kind_of(c.name) not in OTHERS_BESIDE


# aspect -> what is held equal while it changes (None: the condition is about something else), and what it is
ASPECTS = {
    "batch": (
        lambda c: (c.slot, c.threads, c.way) if plain(c) else None,
        lambda c: (c.batch_size, c.composition, c.trace),
    ),
    "neighbours": (place_in_batch, lambda c: (c.name, c.composition)),
    "slot": (lambda c: (c.batch_size, c.composition, c.threads, c.way), lambda c: c.slot),
    "threads": (lambda c: (c.batch_size, c.composition, c.slot, c.way), lambda c: c.threads),
}
