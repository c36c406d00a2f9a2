"""What is no numerics, planted and found; and numerics, which must be taken for none of it."""

from dataclasses import replace

import numpy as np
import pytest

from detcheck.outcomes import outcome
from detcheck.probes.logprobs import causes
from detcheck.probes.logprobs.arm import paired
from detcheck.probes.logprobs.explain import Held, explanations, scored
from detcheck.probes.logprobs.facts import Explanation
from detcheck.probes.logprobs.measures import ScoredPair

VOCABULARY = 50


@pytest.fixture(scope="module")
def drawn():
    """[(logits[n, V], tokens[n])]: sequences drawn from a seeded model of their own, in which some tokens come again."""
    rng, found = np.random.default_rng(5), []
    for _ in range(12):
        logits = rng.normal(0, 2.5, (30, VOCABULARY))
        logits[:, :6] += 2
        p = np.exp(logits - logits.max(-1, keepdims=True))
        tokens = np.array([rng.choice(VOCABULARY, p=row / row.sum()) for row in p])
        found.append((logits, tokens))
    return found


def kept(logits, keep):
    return np.where(keep, logits, -np.inf)


def top_p(logits, p):
    order = np.argsort(-logits, axis=1)
    share = np.exp(logits - logits.max(1, keepdims=True))
    mass = np.cumsum(np.take_along_axis(share / share.sum(1, keepdims=True), order, 1), 1)
    sizes = (mass < p).sum(1) + 1
    return kept(logits, np.argsort(order, axis=1) < sizes[:, None])


def top_k(logits, k):
    return kept(logits, np.argsort(np.argsort(-logits, axis=1), axis=1) < k)


def penalty(logits, tokens, kind, value):
    changed = logits.copy()
    for n in range(len(tokens)):
        counts = np.bincount(tokens[:n], minlength=logits.shape[1])
        if kind == "repetition":
            changed[n] = np.where(counts > 0, np.where(logits[n] > 0, logits[n] / value, logits[n] * value), logits[n])
        else:
            changed[n] -= value * (counts > 0 if kind == "presence" else counts)
    return changed


PLANTED = {
    "temperature": lambda z, t: z / 0.7,
    "top_k": lambda z, t: top_k(z, 5),
    "top_p": lambda z, t: top_p(z, 0.9),
    "min_p": lambda z, t: kept(z, np.exp(z - z.max(1, keepdims=True)) >= 0.1),
    "softcap": lambda z, t: 5 * np.tanh(z / 5),
    "repetition_penalty": lambda z, t: penalty(z, t, "repetition", 1.2),
    "presence_penalty": lambda z, t: penalty(z, t, "presence", 0.6),
    "frequency_penalty": lambda z, t: penalty(z, t, "frequency", 0.4),
}
VALUES = {
    "temperature": 0.7,
    "top_k": 5,
    "softcap": 5,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.6,
    "frequency_penalty": 0.4,
}


def held(drawn, change, noise=0.0):
    """The places whose token the sampler could have made, with the sampler's numbers rounded otherwise by `noise`."""
    rng = np.random.default_rng(1)
    parts = []
    for logits, tokens in drawn[:4]:
        sampler = scored(change(logits, tokens), tokens) + rng.normal(0, noise, len(tokens))
        parts += [
            (z, t, s, tokens[:n])
            for n, (z, t, s) in enumerate(zip(logits, tokens, sampler, strict=True))
            if np.isfinite(s)
        ]
    logits, tokens, sampler, before = zip(*parts, strict=True)
    nothing = tuple(np.empty(0, np.int64) for _ in before)
    return Held(np.stack(logits), np.array(tokens), np.array(sampler), nothing, before)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_cause_is_found_on_the_logits(drawn, kind, noise=1e-5):
    (found,) = causes.explained(explanations(held(drawn, PLANTED[kind], noise)))
    assert found.kind == kind and found.certain, found.why
    if kind in VALUES:
        assert f"{VALUES[kind]:g}" in found.why
    if kind == "top_p":
        tried = next(e for e in explanations(held(drawn, PLANTED[kind], noise)) if e.kind == "top_p")
        assert tried.values[0] < 0.9 <= tried.values[1]


def test_top_p_at_a_temperature(drawn):
    (found,) = causes.explained(explanations(held(drawn, lambda z, t: top_p(z / 0.8, 0.9), 1e-6)))
    assert found.kind == "top_p" and "temperature of 0.8" in found.why


@pytest.mark.parametrize("noise", [0, 1e-6, 1e-2, 0.3])
def test_numerics_is_none_of_it(drawn, noise):
    assert not causes.explained(explanations(held(drawn, lambda z, t: z, noise)))


def test_ids_that_a_model_masks_with_infinity_do_no_harm(drawn):
    masked = [(np.where(np.arange(VOCABULARY) == 49, -np.inf, z), np.where(t == 49, 0, t)) for z, t in drawn]
    (found,) = causes.explained(explanations(held(masked, PLANTED["temperature"])))
    assert found.kind == "temperature"
    broken = held(drawn, PLANTED["temperature"])
    broken.logits[3, 3] = np.nan
    assert explanations(broken) == []


def test_a_model_of_its_own_is_none_of_it(drawn):
    """Other weights: every logit is another."""
    rng = np.random.default_rng(9)
    assert not causes.explained(explanations(held(drawn, lambda z, t: z + rng.normal(0, 0.5, z.shape))))


def pairs(drawn, change, noise=1e-6, trainer=lambda z, t: z):
    rng, made = np.random.default_rng(2), []
    for n, (logits, tokens) in enumerate(drawn):
        a, b = scored(change(logits, tokens), tokens), scored(trainer(logits, tokens), tokens)
        there = np.isfinite(a) & np.isfinite(b)
        a = a + rng.normal(0, noise, len(a))
        made.append(ScoredPair(str(n), tokens[there], a[there].astype(np.float32), b[there].astype(np.float32)))
    return made


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (PLANTED["temperature"], "temperature"),
        (PLANTED["top_p"], "renormalisation"),
        (PLANTED["top_k"], "renormalisation"),
        (PLANTED["presence_penalty"], "penalty"),
    ],
)
def test_from_the_numbers_alone_a_cause_is_likely(drawn, planted, expected):
    found = causes.of_pairs(pairs(drawn, planted))
    assert expected in [cause.kind for cause in found] and not any(cause.certain for cause in found)


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.05])
def test_numbers_that_differ_by_rounding_make_nothing_likely(drawn, noise):
    assert not causes.of_pairs(pairs(drawn, lambda z, t: z, noise))


def test_a_side_that_has_nothing_to_do_with_the_other_has_no_temperature(drawn):
    """As on a model that amplifies: the differences are the other side's numbers, turned round."""
    rng = np.random.default_rng(4)
    unlike = [
        replace(p, sampler=(0.2 * p.trainer - 0.4 + rng.normal(0, 0.6, len(p.trainer))).astype(np.float32))
        for p in pairs(drawn, lambda z, t: z)
    ]
    apart, trainer = (np.concatenate([getattr(p, name) for p in unlike]) for name in ("ratios", "trainer"))
    assert causes.line(trainer, apart)[1] > causes.FITS, "it looks like one"
    assert not causes.of_pairs(unlike)


@pytest.mark.parametrize("by", [1, -1])
def test_a_shifted_index(drawn, by):
    moved = [ScoredPair(p.name, p.tokens, p.sampler, np.roll(p.trainer, by)) for p in pairs(drawn, lambda z, t: z)]
    (found,) = causes.of_pairs(moved)
    assert found.kind == "shift" and ("behind" if by > 0 else "before") in found.why


def scores(sampler, trainer, **more):
    numbers = (np.asarray(values, np.float32) for values in (sampler, trainer))
    return ScoredPair("7:ab", np.arange(len(sampler)), *numbers, **more)


def test_a_shifted_index_beside_another_id():
    trainer = -np.random.default_rng(3).exponential(1, 40)
    other = np.arange(40)
    other[7] = 99
    noisy = scores(trainer + 0.01, trainer, other_tokens=other)
    assert [cause.kind for cause in causes.of_pairs([noisy])] == ["tokenizer", "renormalisation"]
    moved = scores(np.roll(trainer, 1), trainer, other_tokens=other)
    assert "shift" in [cause.kind for cause in causes.of_pairs([moved])]


def test_no_index_is_shifted_where_no_two_places_can_be_compared():
    """Every second number is missing: moved by one, nothing stands beside anything."""
    rng = np.random.default_rng(3)
    a, b = (np.where(np.arange(80) % 2, -rng.exponential(1, 80), np.nan) for _ in range(2))
    assert "shift" not in [cause.kind for cause in causes.of_pairs([scores(a, b)])]


@pytest.mark.parametrize("side", ["sampler", "trainer"])
def test_a_side_without_numbers_of_its_own(side):
    """A dump that holds zeros where log-probabilities should be."""
    numbers = -np.random.default_rng(3).exponential(1, 40)
    sides = (np.zeros(40), numbers) if side == "sampler" else (numbers, np.zeros(40))
    (found,) = causes.of_pairs([scores(*sides)])
    assert found.kind == "constant" and f"the {side}'s numbers are all 0" in found.why


def one(tokens, others, **more):
    numbers = np.full(len(tokens), -1, np.float32)
    return ScoredPair("7:ab", np.array(tokens), numbers, numbers, other_tokens=np.array(others), **more)


def test_a_tokeniser_that_differs_in_one_id():
    (found,) = causes.of_pairs([one([3, 9, 4, 9], [3, 8, 4, 8])])
    assert found.certain and "token 9 of the sampler is always token 8 of the trainer (2 times)" in found.why


def test_other_tokens_altogether_are_no_tokeniser():
    (found,) = causes.of_pairs([one([3, 9, 4, 9], [3, 8, 5, 7])])
    assert not found.certain and "did not score the same tokens" in found.why


@pytest.mark.parametrize(
    ("tokens", "others"),
    [
        ([5, 5, 5, 5, 5, 5], [5, 5, 7, 5, 5, 5]),  # the id stands unchanged elsewhere
        ([5, 5, 7, 7], [7, 7, 7, 7]),  # the other one does
        ([3, 9, 4], [3, 8, 4]),  # once is not always
    ],
)
def test_one_other_id_is_no_tokeniser(tokens, others):
    (found,) = causes.of_pairs([one(tokens, others)])
    assert not found.certain and "always" not in found.why


def test_special_tokens_left_out_of_a_text_are_no_tokeniser():
    numbers = np.full(2, -1, np.float32)
    pair = ScoredPair("0", np.arange(2), numbers, numbers, "hello", "hello<eos>")
    (found,) = causes.of_pairs([pair])
    assert not found.certain and "special tokens" in found.why


def test_one_sequence_that_ends_early_shows_no_limit():
    numbers = np.full(9, -1, np.float32)
    (found,) = causes.of_pairs([ScoredPair("0", np.arange(9), numbers, numbers, lengths=(9, 10))])
    assert found.kind == "truncation" and not found.certain


def test_the_surest_is_first(drawn):
    """An id that differs once, which is not certain, before an index that is."""
    moved = [ScoredPair(p.name, p.tokens, p.sampler, np.roll(p.trainer, 1)) for p in pairs(drawn, lambda z, t: z)]
    other = moved[0].tokens.copy()
    other[0] += 1
    found = causes.of_pairs([replace(moved[0], other_tokens=other), *moved[1:]])
    assert [(c.kind, c.certain) for c in found] == [("shift", True), ("tokenizer", False)]


@pytest.mark.parametrize(("places", "named"), [(2, False), (9, False), (10, True)])
def test_an_explanation_wants_enough_places(places, named):
    found = causes.explained([Explanation("softcap", (30.0,), places, 0.5, 1e-6, 1.0)])
    assert bool(found) is named


def test_tensors_that_could_not_be_read_say_nothing():
    """A folder of GGUF files has no safetensors."""
    assert not causes.of_weights({}, {"a": "1"}) and not causes.of_weights({"a": "1"}, {})


def test_truncation_names_the_length():
    numbers = np.full(4, -1, np.float32)
    cut = [ScoredPair(str(n), np.arange(4), numbers, numbers, lengths=(length, 4)) for n, length in enumerate((9, 6))]
    (found,) = causes.of_pairs([*cut, ScoredPair("2", np.arange(2), numbers[:2], numbers[:2])])
    assert (
        found.kind == "truncation" and found.certain and "trainer's sequences are cut off after 4 tokens" in found.why
    )
    assert "7 tokens of 2 of 3 sequences" in found.why


def test_weights_and_tokens_of_models_are_named():
    (found,) = causes.of_weights({"a.weight": "1", "b.weight": "2"}, {"a.weight": "1", "b.weight": "3"})
    assert "b.weight has other bits" in found.why and "1 of 2 tensors" in found.why
    assert not causes.of_weights({"a": "1"}, {"a": "1"})
    (found,) = causes.of_vocabularies(["x", "y", "z"], ["x", "w", "z"])
    assert "id 1 is 'y' of the sampler and 'w' of the trainer" in found.why
    assert not causes.of_vocabularies(["x"], ["x"])


def test_an_explanation_survives_being_stored():
    import json

    made = Explanation("top_p", (0.89, 0.9), 12, 0.1, 1e-6, 0.7)
    assert Explanation.from_json(json.loads(json.dumps(made.plain()))) == made


def test_a_file_of_more_digits_is_not_rounded_to_the_trainers_float32():
    tokens, narrow = np.arange(3), np.array([-1.5, -0.1, -2.0], np.float32)
    wide = narrow.astype(np.float64)
    assert not paired("0", outcome(tokens, logprobs=wide), outcome(tokens, logprobs=narrow)).unequal.any()
    wide[1] += 1e-12
    found = paired("0", outcome(tokens, logprobs=wide), outcome(tokens, logprobs=narrow))
    assert found.unequal.tolist() == [False, True, False]
