"""What is no numerics: reasons why two sides' log-probabilities differ that no kernel mends. Pure.

Each is a `OtherCause`. Where both sides' numbers of the tokens are all there is, a cause is *likely*, and what would show it is said; where the
trainer's logits were at hand, it was tried on them, and is certain (`Explanation`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detcheck.probes.logprobs.facts import SAMPLER, TRAINER, Explanation
from detcheck.probes.logprobs.measures import ScoredPair

BETTER = 10.0  # times smaller differences, so that an explanation holds: what numerics leaves over stays, the rest goes
ENOUGH = 24  # tokens below which nothing is concluded from the numbers alone
TRIED = 10  # places with logits below which no explanation holds: one value can be fitted to one or two of them
LEAST = 1e-3  # nats: smaller differences are not asked what they come from
SLOPE = 0.05  # of differences along log-probabilities, from which on a temperature is likely
FITS = 0.5  # R^2 of that slope
ROUNDED = " digits"  # how `files.precision` ends where numbers were rounded
ONE_SIDED = 0.995  # share of the differences beyond rounding that have one sign, so that a renormalisation is likely
EXACT = "to test it exactly, score the tokens here: --trainer transformers with --model (and --max-kl, --max-diff for what you accept)"


@dataclass(frozen=True)
class OtherCause:
    kind: str
    certain: bool
    why: str
    digits: int = 0
    """significant digits that a side's numbers were rounded to when they were written; 0: they were not"""

    def plain(self) -> dict[str, object]:
        return {"kind": self.kind, "certain": self.certain, "why": self.why}


def of_pairs(pairs: Sequence[ScoredPair]) -> list[OtherCause]:
    """From both sides' tokens and log-probabilities alone, the surest first."""
    found = [*tokenizer(pairs), *truncation(pairs), *shift(pairs)]
    if not any(cause.kind == "shift" for cause in found):
        found += shape(pairs)
    return sorted(found, key=lambda cause: not cause.certain)


def tokenizer(pairs: Sequence[ScoredPair]) -> Iterator[OtherCause]:
    """Other ids for the same text, or other texts for the same ids."""
    other: Counter[tuple[int, int]] = Counter()
    sequences, example = 0, ""
    for pair in pairs:
        if pair.other_tokens is None:
            continue
        places = np.flatnonzero(pair.tokens != pair.other_tokens)
        sequences += 1
        example = example or f"first in sequence {pair.name} at token {places[0]}"
        other.update((int(pair.tokens[n]), int(pair.other_tokens[n])) for n in places)
    if other:
        (ours, theirs), count = other.most_common(1)[0]
        ids_of = {a for a, _ in other}, {b for _, b in other}
        steady = count > 1 and len(other) == len(ids_of[0]) == len(ids_of[1]) and not kept(pairs, set.union(*ids_of))
        if len(other) == 1:
            ids = f"token {ours} of the sampler is {'always ' * steady}token {theirs} of the trainer ({many(count, 'time')})"
        else:
            ids = f"{sum(other.values())} tokens have other ids, most often {ours} here and {theirs} there ({count} times)"
        same = any(p.other_tokens is not None and p.text and p.text == p.other_text for p in pairs)
        texts = ", although the texts are the same" if same else ""
        kind = (
            "the two sides have different tokenisers"
            if steady or same
            else "the two sides did not score the same tokens"
        )
        yield OtherCause(
            "tokenizer", steady or same, f"{kind}: {ids} in {sequences} of {len(pairs)} sequences, {example}{texts}"
        )
        return
    texts = [p for p in pairs if p.other_tokens is None and p.text and p.other_text and p.text != p.other_text]
    if texts:
        yield OtherCause(
            "tokenizer", False,
            f"the two sides may have different tokenisers: {len(texts)} of {len(pairs)} sequences have equal token ids and other texts, first {texts[0].name}. "
            "Or one side leaves special tokens out of its text",
        )  # fmt: skip


def kept(pairs: Sequence[ScoredPair], ids: set[int]) -> bool:
    """Whether one of these ids is the same on both sides somewhere."""
    same = (p.tokens if p.other_tokens is None else p.tokens[p.tokens == p.other_tokens] for p in pairs if p.ids)
    return any(not ids.isdisjoint(tokens.tolist()) for tokens in same)


def truncation(pairs: Sequence[ScoredPair]) -> Iterator[OtherCause]:
    """One side has only the beginning of the other's tokens."""
    for place, side in enumerate((SAMPLER, TRAINER)):
        shorter = [p.lengths for p in pairs if p.lengths and p.lengths[place] < p.lengths[1 - place]]
        if not shorter:
            continue
        lengths = {both[place] for both in shorter}
        lost = sum(both[1 - place] - both[place] for both in shorter)
        longest = max(p.lengths[place] if p.lengths else len(p.tokens) for p in pairs)
        limit = lengths == {longest}
        at = (
            f"after {longest} tokens, which is its longest"
            if limit
            else f"after {min(lengths)} to {max(lengths)} tokens"
        )
        yield OtherCause(
            "truncation", limit and len(shorter) > 1,
            f"the {side}'s sequences are cut off {at}: {many(lost, 'token')} of {len(shorter)} of {many(len(pairs), 'sequence')} are missing. Compare its "
            "maximum length with the other side's",
        )  # fmt: skip


def shift(pairs: Sequence[ScoredPair]) -> Iterator[OtherCause]:
    """The trainer's numbers are those of the token before or behind."""
    straight = np.concatenate([np.abs(p.ratios) for p in pairs]) if pairs else np.empty(0)
    if np.isfinite(straight).sum() < ENOUGH or middle(straight) < LEAST:
        return
    for by in (1, -1):
        moved = np.concatenate([np.abs(beside(p, by).ratios) for p in pairs])
        if np.isfinite(moved).sum() >= ENOUGH and middle(moved) * BETTER < middle(straight):
            where = "behind" if by > 0 else "before"
            yield OtherCause(
                "shift", True,
                f"the index is shifted by one: the sampler's number of a token is the trainer's of the token {where} it (half of the differences are below "
                f"{middle(straight):.3g} nats as they stand, and below {middle(moved):.2g} when moved). The logits at a place are of the next token",
            )  # fmt: skip
            return


def beside(pair: ScoredPair, by: int) -> ScoredPair:
    """The sampler's numbers, each with the trainer's of the place behind it (1) or before it (-1)."""
    here, there = (slice(None, -1), slice(1, None))[::by]
    return replace(
        pair, tokens=pair.tokens[here], sampler=pair.sampler[here], trainer=pair.trainer[there], other_tokens=None
    )


def middle(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else 0.0


def shape(pairs: Sequence[ScoredPair]) -> Iterator[OtherCause]:
    """What the differences look like beside the log-probabilities themselves: it only makes a cause likely."""
    a = np.concatenate([p.sampler.astype(np.float64) for p in pairs]) if pairs else np.empty(0)
    b = np.concatenate([p.trainer.astype(np.float64) for p in pairs]) if pairs else np.empty(0)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < ENOUGH:
        return
    for side, own, other in ((SAMPLER, a, b), (TRAINER, b, a)):
        if not np.ptp(own) and np.ptp(other):
            yield OtherCause(
                "constant", True,
                f"the {side}'s numbers are all {own[0]:.6g}, of {len(own)} tokens, and the other side's are not: they were not written, or are of a distribution "
                "that was cut down to the likeliest token. Ask for the log-probabilities of the model's own distribution",
            )  # fmt: skip
            return
    apart = a - b
    beyond = np.abs(apart) > LEAST
    if beyond.mean() < 0.1 or beyond.sum() < ENOUGH:
        return
    up = float((apart[beyond] > 0).mean())
    slope, fits = line(b, apart)
    related = line(b, a)[1] > FITS  # where a side is noise, the differences grow with the other side's numbers too
    if related and abs(slope) > SLOPE and 1 + slope > SLOPE and fits > FITS:
        yield OtherCause(
            "temperature", False,
            f"a temperature is likely: the differences grow with the log-probability itself (slope {slope:+.2f}, R² {fits:.2f}), as where one side divides "
            f"its logits by a temperature, by about {1 / (1 + slope):.2f} on the sampler's side or {1 + slope:.2f} on the trainer's. A soft cap on the logits looks the same; {EXACT}",
        )  # fmt: skip
    elif related and up >= ONE_SIDED:
        largest = float(apart.max())
        yield OtherCause(
            "renormalisation", False,
            f"a renormalisation is likely: the sampler's numbers are higher wherever the two differ, by up to {largest:.3g} nats. So it is where top-p, top-k or "
            "min-p leaves tokens out and the rest is scaled up again by log S, S being what was kept, and with penalties on tokens that were not chosen. "
            f"Ask the sampler for raw log-probabilities (vLLM: logprobs_mode=raw_logprobs); {EXACT}",
        )  # fmt: skip
    yield from repeated(pairs)


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(slope, R^2) of y over x, least squares."""
    spread = float(np.var(x))
    if not spread or not float(np.var(y)):
        return 0.0, 0.0
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    return covariance / spread, covariance**2 / (spread * float(np.var(y)))


def repeated(pairs: Sequence[ScoredPair]) -> Iterator[OtherCause]:
    """Tokens that came before in the sequence are lower on the sampler's side, and others are not."""
    again, fresh = [], []
    for pair in pairs:
        if not pair.ids:
            return
        first = np.zeros(len(pair.tokens), bool)
        first[np.unique(pair.tokens, return_index=True)[1]] = True
        fresh.append(-pair.ratios[first])
        again.append(-pair.ratios[~first])
    old, new = (values[~np.isnan(values)] for values in (np.concatenate(again), np.concatenate(fresh)))
    if min(len(old), len(new)) < ENOUGH:
        return
    if float(np.mean(old < -LEAST)) > 0.9 and float(np.mean(new < -LEAST)) < 0.1:
        yield OtherCause(
            "penalty", False,
            f"a penalty on repetition is likely: of tokens that came before in their sequence the sampler's numbers are lower, by {-np.median(old):.3g} nats in the "
            f"middle, and of others they are not ({np.median(new):+.2g}). {EXACT[0].upper()}{EXACT[1:]}",
        )  # fmt: skip


def of_widths(sampler: str, trainer: str) -> list[OtherCause]:
    """Of what width the sides' numbers are, as `files.precision` says it."""
    found = []
    for side, width, other in ((SAMPLER, sampler, trainer), (TRAINER, trainer, sampler)):
        if width == "bfloat16" and width != other:
            why = f"every number of the {side} is a bfloat16, and the other side's are {other}: its log-softmax is computed in bfloat16. Cast the logits to float32 first"
            found.append(OtherCause("precision", True, why))
        elif width.endswith(ROUNDED):
            why = f"the {side}'s numbers were rounded to {width} when they were written. Write them in full, or as parquet or safetensors"
            found.append(OtherCause("rounded", True, why, int(width.removesuffix(ROUNDED))))
    return found


def only_rounded(pairs: Sequence[ScoredPair], digits: int) -> bool:
    """Whether all differences are below what writing so many significant digits leaves out."""
    for pair in pairs:
        apart, size = np.abs(pair.ratios), np.abs(pair.sampler.astype(np.float64))
        with np.errstate(divide="ignore"):
            allowed = 10.0 ** (np.floor(np.log10(np.maximum(size, np.abs(pair.trainer)))) - digits + 1)
        if not bool((apart[pair.unequal] <= allowed[pair.unequal]).all()):
            return False
    return True


WHAT = {
    "temperature": "a temperature: the sampler's log-probabilities are those of the trainer's logits divided by {0:.4g}",
    "softcap": "a soft cap on the logits: the sampler's are those of the trainer's logits as {0:.4g} tanh(x / {0:.4g})",
    "uncapped": "a soft cap on the logits: the trainer's are capped at {0:.4g}, the sampler's are not",
    "top_k": "top-k: the sampler's log-probabilities are renormalised over the {0:.0f} likeliest tokens",
    "top_p": "top-p: the sampler's log-probabilities are renormalised over the likeliest tokens that hold a share p of the probability, {0:.4g} < p <= {1:.4g}",
    "min_p": "min-p: the sampler's log-probabilities are renormalised over tokens with at least a share p of the likeliest one's probability, {0:.4g} < p <= {1:.4g}",
    "repetition_penalty": "a repetition penalty of {0:.4g}: the sampler's log-probabilities are behind it",
    "presence_penalty": "a presence penalty of {0:.4g}: the sampler's log-probabilities are behind it",
    "frequency_penalty": "a frequency penalty of {0:.4g}: the sampler's log-probabilities are behind it",
}


def explained(tried: Sequence[Explanation]) -> list[OtherCause]:
    """Those tried on the trainer's logits that make the differences ten times smaller: the best, and those as good."""
    holding = sorted(
        (e for e in tried if e.tokens >= TRIED and e.before > LEAST and e.after * BETTER < e.before),
        key=lambda e: (e.after > 2 * min(x.after for x in tried), e.temperature != 1.0),
    )
    made = []
    for e in holding[:1]:
        warm = f", at a temperature of {e.temperature:.4g}" if e.temperature != 1.0 else ""
        made.append(
            OtherCause(
                e.kind, True,
                f"{WHAT[e.kind].format(*e.values)}{warm}. Tried on the trainer's own logits at {e.tokens} tokens: 90% of the differences are below {e.before:.3g} nats "
                f"without it, and below {e.after:.2g} with it. Compare log-probabilities of the same distribution: give the trainer the same, or ask the sampler for "
                "raw log-probabilities",
            )
        )  # fmt: skip
    return made


def of_weights(a: Mapping[str, str], b: Mapping[str, str]) -> list[OtherCause]:
    """`a`, `b`: tensor -> digest of its dtype, shape and bits. {}: they could not be read, and nothing is said."""
    if not a or not b:
        return []
    other = [name for name in a if name in b and a[name] != b[name]]
    alone = [*(name for name in a if name not in b), *(name for name in b if name not in a)]
    if not other and not alone:
        return []
    said = [f"{listed(other)} {'has' if len(other) == 1 else 'have'} other bits"] if other else []
    said += [f"{listed(alone)} {'is' if len(alone) == 1 else 'are'} in one of them alone"] if alone else []
    return [
        OtherCause(
            "weights",
            True,
            f"the two models do not have the same weights: {'; '.join(said)} ({len(other) + len(alone)} of {len({*a, *b})} tensors)",
        )
    ]


def of_vocabularies(a: Sequence[str], b: Sequence[str]) -> list[OtherCause]:
    """`a`, `b`: the token of every id."""
    other = [n for n in range(max(len(a), len(b))) if a[n : n + 1] != b[n : n + 1]]
    if not other:
        return []
    first = other[0]
    here, there = (repr(side[first]) if first < len(side) else "no token" for side in (a, b))
    more = f", and {many(len(other) - 1, 'other id')} differ" if len(other) > 1 else ""
    return [
        OtherCause(
            "tokenizer",
            True,
            f"the two models do not have the same tokeniser: id {first} is {here} of the sampler and {there} of the trainer{more}",
        )
    ]


def listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def many(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)
