"""Conditions of the prompt alone, asked for by name: what was decoded is computed again in one pass, or in a process that was just started."""

import json
import os
import sys
from pathlib import Path

import pytest
from models import llama_like
from scripted import OTHER, SAME, Scripted, observe

from detcheck.engine import Decoded
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.verdict import Verdict


class Prefilling(Scripted):
    """Computes again what it made, by `again(made)`."""

    def __init__(self, again, answer=lambda rows, slot, call: SAME):
        super().__init__(answer)
        self._again = again

    def prefill(self, row, made):
        return Decoded({0: self._again(made)}, (1,))


CONDITIONS = ("alone", "batch-2", "prefill")


def test_a_prefill_that_gives_what_was_decoded_passes_and_another_is_named():
    finding, observations = observe(Prefilling(lambda made: made), samples=4, conditions=CONDITIONS)
    assert finding.verdict is Verdict.IDENTICAL and finding.evidence["conditions"]["prefill"]["formed"] == 2
    assert [o.condition.fed for o in observations] == [""] * 4 + ["prefill"] * 2
    finding, _ = observe(Prefilling(lambda made: OTHER), samples=4, conditions=CONDITIONS)
    assert (finding.verdict, finding.evidence["varies_with"]) == (Verdict.BATCH_VARIANT, ["prefill"])
    by_both = Prefilling(lambda made: OTHER, lambda rows, slot, call: OTHER if rows > 1 else SAME)
    finding, _ = observe(by_both, samples=4, conditions=CONDITIONS)
    assert "prefill" in finding.evidence["varies_with"] and len(finding.evidence["varies_with"]) == 2


def test_where_nothing_was_decoded_there_is_nothing_to_compute_again():
    finding, _ = observe(Prefilling(None, lambda *_: None), samples=4, conditions=CONDITIONS)
    assert finding.verdict is Verdict.FAILED
    finding, _ = observe(
        Prefilling(lambda made: made, lambda rows, slot, call: None if call > 3 else SAME), 4, CONDITIONS
    )
    assert finding.verdict is Verdict.INCONCLUSIVE and finding.missing == 2


def test_by_default_it_is_not_tried_and_says_how():
    finding, _ = observe(Scripted(lambda *_: SAME))
    assert {f"{kind}: by name alone, with --conditions" for kind in ("prefill", "fresh")} <= set(
        map(str, finding.evidence["not_tried"])
    )
    finding, _ = observe(Scripted(lambda *_: SAME), samples=6, batch_sizes=(1, 2))
    assert not finding.evidence["not_tried"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.fixture
def ask(detcheck, folder):
    def call(*arguments):
        ask = ("completions", "--model", folder, "--prompt", "Tell me about him", "-n", "4", "--max-tokens", "6")
        result = detcheck(*ask, "--kernels", "batch-invariant", "--format", "json", "-q", *arguments)
        return result.code, json.loads(result.out)["findings"]

    return call


def test_on_our_kernels_a_prefill_has_the_bits_of_decoding_greedily_and_by_seeds(ask):
    asked = ("--conditions", "alone,prefill", "--temperature", "0.8", "--seeds", "2")
    for arguments, cases in ((asked[:2], 1), (asked, 2)):
        code, found = ask(*arguments)
        assert code == 0 and len(found) == cases, found[0]["note"]
        assert all(f["evidence"]["conditions"]["prefill"]["formed"] == 2 for f in found)


def test_decoding_that_is_otherwise_than_a_prefill_is_caught(ask, monkeypatch):
    """The last bit of the logits of a single token behind a cache: no batch shows it."""
    plain = TransformersEngine.forward

    def forward(self, ids, mask, cache, **extra):
        logits, cache = plain(self, ids, mask, cache, **extra)
        return (logits.nextafter(logits + 1) if ids.shape[1] == 1 else logits), cache

    monkeypatch.setattr(TransformersEngine, "forward", forward)
    code, (found,) = ask("--conditions", "alone,batch-2,prefill")
    assert code == 1 and found["evidence"]["varies_with"] == ["prefill"]
    assert found["evidence"]["first_variant_condition"] == "prefill"


def test_on_our_kernels_a_prompt_has_its_bits_in_chunks_of_any_size(ask):
    sizes = ("chunked-1-tokens-2", "chunked-1-tokens-3")
    code, (found,) = ask("--conditions", ",".join(("alone", *sizes)))
    assert code == 0 and all(found["evidence"]["conditions"][name]["formed"] == 2 for name in sizes), found["note"]


def test_a_chunk_of_one_size_that_goes_wrong_is_named(ask, monkeypatch):
    """The second chunk's mask is that of a whole prompt: what stands before it is not seen."""
    plain = TransformersEngine.forward
    widths = []

    def forward(self, ids, mask, cache, **extra):
        widths.append(ids.shape[1])
        if ids.shape[1] == 3 and mask.shape[1] > 3:
            mask = mask.clone()
            mask[:, 0] = 0
        return plain(self, ids, mask, cache, **extra)

    monkeypatch.setattr(TransformersEngine, "forward", forward)
    code, (found,) = ask("--conditions", "alone,chunked-1-tokens-2,chunked-1-tokens-3")
    assert code == 1 and found["evidence"]["varies_with"] == ["chunk"]
    assert found["evidence"]["first_variant_condition"] == "chunked-1-tokens-3" and {2, 3} < set(widths)


def test_a_chunk_that_holds_the_whole_prompt_is_not_tried():
    finding, _ = observe(Scripted(lambda *_: SAME), samples=4, conditions=("alone", "batch-2", "chunked-1-tokens-6"))
    assert "chunked-1-tokens-6: the shortest prompt's 6 tokens fit into one chunk" in map(
        str, finding.evidence["not_tried"]
    )


PLANTED = """
from detcheck.engines.transformers import measure
def read(self, logits, plain=measure.Measure.read):
    found = plain(self, logits)
    found[2] += 1e-6 * (hash("what a process picks once") % 997)
    return found
measure.Measure.read = read
"""


def test_a_fresh_process_has_the_same_bits(ask):
    code, (found,) = ask("--conditions", "alone,fresh", "--trials", "1")
    assert code == 0 and found["evidence"]["conditions"]["fresh"] == {
        "asked": 1, "formed": 1, "samples": 1, "distinct": 1, "distinct_bits": 1,
    }  # fmt: skip
    assert found["evidence"]["coverage"]["overridden"]["aten::mm"] % 5 == 0  # of all five samples: its calls came too


def test_what_a_process_picks_once_is_caught(ask, tmp_path, monkeypatch):
    """The seed of its hashes, in every process that is started from here on."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(PLANTED)
    here = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "planted"), str(here)]))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    code, (found,) = ask("--conditions", "alone,fresh")
    assert (code, found["verdict"]) == (1, "run-variant")
    assert "equal conditions gave different bits (in 1 of them, first in fresh, slot 0)" in found["note"]


def test_where_every_fresh_process_gives_the_same_other_bits_the_process_is_named(monkeypatch):
    from detcheck.harness import fresh

    monkeypatch.setattr(fresh, "complete", lambda asked: (Decoded({0: OTHER}, (1,)), ()))
    finding, _ = observe(Scripted(lambda *_: SAME), samples=4, conditions=("alone", "batch-2", "fresh"))
    assert (finding.verdict, finding.evidence["varies_with"]) == (Verdict.BATCH_VARIANT, ["process"])


def test_a_fresh_process_that_fails_is_a_missing_sample(ask, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    code, (found,) = ask("--conditions", "alone,fresh")
    assert code == 3 and found["evidence"]["missing"] == {"the fresh process ended with exit code 1": 2}


@pytest.mark.parametrize("words", [("--base-url", "http://127.0.0.1:9", "--conditions", "prefill"), ("--conditions", "prefill-3")])  # fmt: skip
def test_who_has_no_such_condition_says_so(words, detcheck):
    result = detcheck("completions", "-q", *words)
    assert result.code == 2 and "there is no such condition" in result.err
