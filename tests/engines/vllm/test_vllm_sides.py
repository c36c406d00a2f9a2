"""Two sides inside vLLM: speculative decoding against plain, compared condition by condition, and drafts that never come."""

import json
from pathlib import Path

import pytest

from detcheck.models import amplifier

ASK = ("completions", "--engine", "vllm", "-n", "8", "--max-tokens", "8", "--conditions", "alone,wave-3", "-q")


@pytest.fixture
def run(detcheck, needs_vllm):
    """What drafts, or "" -> the folder of a run."""

    def make(speculative=""):
        before = set(Path("runs").glob("*"))
        result = detcheck(*ASK, *(("--engine-arg", f"speculative_config={speculative}") if speculative else ()))
        made = set(Path("runs").glob("*")) - before
        assert made, result.err
        return made.pop()

    return make


def test_speculative_decoding_is_compared_with_plain(run, detcheck):
    """The model drafts for itself, so that drafts are taken; a lookup in a prompt without repeats finds none, and equal bits are no pass then."""
    plain = run()

    def compared(other):
        result = detcheck("compare", plain, other, "--format", "json")
        (finding,) = json.loads(result.out)["findings"]
        assert set(finding["evidence"].get("places", {})) in ({"alone", "wave-3"}, set())
        return result.code, finding

    itself = {"method": "draft_model", "model": str(amplifier.folder()), "num_speculative_tokens": 3}
    drafting = run(json.dumps(itself))
    (own,) = json.loads(detcheck("report", drafting, "--format", "json").out)["findings"]
    drafts = own["evidence"]["speculation"]
    assert 0 < drafts["accepted"] <= drafts["drafted"], drafts
    code, finding = compared(drafting)
    assert finding["note"].startswith("speculative decoding: none then, draft_model now; ")
    assert code in (0, 1), finding["note"]  # its bits follow this processor's attention of several tokens
    if finding["verdict"] == "divergent" and "places" in finding["evidence"]:
        assert "the engine made other steps of " in finding["note"]
    assert any(line.startswith("flags.vllm.speculative_config: ") for line in finding["evidence"]["changed"])
    lookup = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 8, "prompt_lookup_min": 8}
    looking = run(json.dumps(lookup))
    report = detcheck("report", looking, "--format", "json")
    (own,) = json.loads(report.out)["findings"]
    drafts = own["evidence"]["speculation"]
    assert (drafts["drafted"], drafts["accepted"]) == (0, 0) and drafts["plain"]
    assert own["verdict"] != "identical"
    code, finding = compared(looking)
    assert code == 3 and "no drafted token was computed" in finding["note"]
