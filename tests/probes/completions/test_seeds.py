"""Seeded sampling: the same seed gives the same tokens in any batch, another seed gives others, and what is wrong with either is found."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from misbehaving import completion, serving
from models import llama_like

from detcheck.engine import Row, Sampling
from detcheck.engines.transformers import measure
from detcheck.engines.transformers.measure import Measure, noise

DRAWN = ("--temperature", "0.8", "--seeds", "2")
ASK = ("completions", "-n", "8", "--max-tokens", "6", "--format", "json", "-q", "--prompt", "Tell me about him")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.fixture
def ask(detcheck, folder):
    """Arguments -> exit code, findings by their seeds."""

    def call(*arguments):
        sizes = ("--batch-sizes", "1,3", "--conditions", "alone,batch")
        result = detcheck(*ASK, "--model", folder, *sizes, *DRAWN, *arguments)
        found = {f["case"]["input"].rpartition(" ")[2]: f for f in json.loads(result.out)["findings"]}
        return result.code, found

    return call


def test_on_our_kernels_a_seed_gives_its_tokens_in_any_batch(ask, reacting):
    code, found = ask("--kernels", "batch-invariant")
    assert code == 0 and set(found) == {"0", "1"}
    for finding in found.values():
        assert finding["verdict"] == "identical" and finding["samples"] == 8
        assert finding["evidence"]["seeds"] == {"asked": 2, "came": 2, "distinct": 2}
    assert found["0"]["mode_text"] != found["1"]["mode_text"]
    code, found = ask()
    assert code == 1 and {f["verdict"] for f in found.values()} == {"batch-variant"}  # what reacts moves bits here too


def test_one_generator_for_the_whole_batch_is_caught(ask, monkeypatch):
    """The usual fault: rows draw one after the other, so that what a row is given follows who is beside it."""
    generator, steps = torch.Generator(), []

    def from_one(seed, step, vocabulary):
        if step == 0 and (steps or [1])[-1]:  # a batch begins
            generator.manual_seed(seed)
        steps.append(step)
        return -torch.empty(vocabulary).exponential_(generator=generator).log()

    monkeypatch.setattr(measure, "noise", from_one)
    code, found = ask("--kernels", "batch-invariant")
    assert code == 1 and {f["verdict"] for f in found.values()} == {"batch-variant"}
    assert all("the bits depend on" in f["note"] for f in found.values())


def test_tokens_drawn_without_the_seed_are_caught(ask, monkeypatch):
    monkeypatch.setattr(measure, "noise", lambda seed, step, vocabulary: -torch.empty(vocabulary).exponential_().log())
    code, found = ask("--kernels", "batch-invariant")
    assert code == 1 and {f["verdict"] for f in found.values()} == {"run-variant"}


def test_where_nothing_is_drawn_equal_bits_are_no_pass(ask, monkeypatch):
    monkeypatch.setattr(measure, "noise", lambda seed, step, vocabulary: torch.zeros(vocabulary))
    code, found = ask("--kernels", "batch-invariant")
    assert code == 3 and all("2 seeds gave the same tokens" in f["note"] for f in found.values())


def test_tokens_are_drawn_as_the_softmax_says():
    logits, temperature = torch.tensor([2.0, 0.5, -1.0, 1.5, 0.0]), 0.8
    drawn = Counter()
    for seed in range(4000):
        reads = Measure(5, "cpu", Sampling(temperature, seed))
        token, runner_up, logprob, margin = reads.read(logits).tolist()
        assert logprob == pytest.approx(logits.log_softmax(0)[int(token)].item(), abs=1e-6) and margin >= 0
        assert token != runner_up
        drawn[int(token)] += 1
    expected = (logits / temperature).softmax(0).numpy()
    spread = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(np.array([drawn[n] / 4000 for n in range(5)]) - expected) < 4 * spread)


def test_the_noise_of_a_step_needs_no_earlier_one():
    late = noise(7, 3, 100)
    noise.cache_clear()
    assert [noise(7, step, 100) for step in range(4)][3].equal(late)
    assert not noise(7, 2, 100).equal(late) and not noise(8, 3, 100).equal(late)


def test_a_greedy_row_beside_a_drawn_one_is_greedy(amplifier):
    prompt = amplifier.encode("Tell me about him")
    alone = amplifier.complete([Row(prompt)], 4, True).completions[0]
    mixed = amplifier.complete([Row(prompt), Row(prompt, sampling=Sampling(5.0, 1))], 4, True).completions
    assert mixed[0].tokens == alone.tokens != mixed[1].tokens


REFUSED = {
    "no seed": (("--temperature", "0.8"), "so that there is no question of determinism. Add --seeds 3"),
    "no temperature": (("--seeds", "3"), "draws nothing at temperature 0"),
    "one seed": (("--temperature", "1", "--seeds", "1"), "--seeds must be at least 2"),
    "a temperature below 0": (("--temperature", "-1", "--seeds", "2"), "--temperature must be 0 or more; got -1"),
    "no number": (("--temperature", "nan", "--seeds", "2"), "--temperature must be 0 or more; got nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_question_of_determinism_is_refused(name, detcheck):
    words, said = REFUSED[name]
    result = detcheck("completions", "-q", *words)
    assert result.code == 2 and said in result.err


def test_a_run_at_another_temperature_is_not_compared(ask, detcheck, tmp_path):
    for word in ("0.8", "0.9"):
        ask("--kernels", "batch-invariant", "--temperature", word)
    result = detcheck("compare", *sorted((tmp_path / "runs").iterdir()))
    assert result.code == 3 and "--temperature was 0.8 and is 0.9" in result.out


def served(detcheck, server):
    small = ("-n", "8", "--conditions", "alone,wave-2,wave-4", "--base-url", server.url, *DRAWN)
    result = detcheck("completions", "--max-tokens", "8", "--format", "json", "-q", *small)
    return result, json.loads(result.out or "{}").get("findings", [])


def test_a_server_that_keeps_to_its_seeds_passes(detcheck):
    with serving(metrics=True) as server:
        result, found = served(detcheck, server)
        bodies = [body for body in server.requests if body.get("temperature")]
    assert result.code == 0 and {f["verdict"] for f in found} == {"identical"}, [f["note"] for f in found]
    assert {body["temperature"] for body in bodies} == {0.8} and {0, 1} < {body["seed"] for body in bodies}


FAULTS = {
    "takes a seed and draws without it": (
        {"answer": lambda h, body, n, t: completion(h.server, {**body, "seed": n}, n), "metrics": True},
        "run-variant",
    ),
    "draws by who is beside": (
        {"answer": lambda h, body, n, t: completion(h.server, body, n, flip=t > 1), "metrics": True},
        "batch-variant",
    ),
    "draws nothing": ({"draws": False, "metrics": True}, "inconclusive"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_does_not_is_caught(name, detcheck):
    how, verdict = FAULTS[name]
    with serving(**how) as server:
        result, found = served(detcheck, server)
    assert result.code == {"inconclusive": 3}.get(verdict, 1)
    assert {f["verdict"] for f in found} == {verdict}, [f["note"] for f in found]


def test_the_first_answer_of_a_prompt_is_shared_by_its_seeds(detcheck):
    with serving(metrics=True) as server:
        result = detcheck("completions", "-q", "--base-url", server.url, *DRAWN, "--conditions", "cold,alone")
    assert result.code == 2 and "the first puts its prefix into the server's cache" in result.err
