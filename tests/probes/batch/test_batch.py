"""The probe `batch` on the amplifier, and on logits that we wrote."""

import json

import numpy as np
import pytest
import torch
from conftest import only_run
from models import llama_like

from detcheck import batch_invariant, runner
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import last_logits
from detcheck.engines.transformers.positions import Lone, earlier_logits, lone_logits
from detcheck.outcomes import Earlier
from detcheck.probes.batch import session as batch
from detcheck.probes.batch.options import Options
from detcheck.probes.batch.session import Batch
from detcheck.spec import Spec
from detcheck.storage import folder
from detcheck.verdict import Verdict

SIZES = (1, 2, 4)
PROMPT = "Tell me about Richard Feynman"


@pytest.fixture
def loaded(monkeypatch, amplifier):
    """The probe with the engine that is loaded already."""
    monkeypatch.setattr(batch, "open_session", lambda spec, planned=None: Batch(spec, amplifier, planned))


def run(tmp_path, on_progress=None, **spec):
    asked = Spec("batch", Options(prompt=PROMPT), **{"batch_sizes": SIZES} | spec)
    return runner.run(asked, tmp_path / "runs", on_progress)


def scripted(monkeypatch, answer):
    """Those before the last position are always equal. Logits by answer(rows, slot, decoded), or of them and how many tokens pad each row, the same for every call."""

    def logits(engine, prompts, slots, decoded=0, padding=0):
        width = max(map(len, prompts)) + padding
        if answer.__code__.co_argcount == 4:
            rows = [answer(len(prompts), slot, decoded, width - len(prompts[slot])) for slot in slots]
            return np.asarray(rows, np.float32).view(np.int32), "float32", (len(prompts),)
        rows = [answer(len(prompts), slot, decoded) for slot in slots]
        return np.asarray(rows, np.float32).view(np.int32), "float32", (len(prompts),)

    def before(engine, prompts, slots, *how):
        return [Earlier(np.arange(LENGTH - 1), np.zeros((2, LENGTH - 1), np.float32)) for _ in slots], (len(prompts),)

    monkeypatch.setattr(batch, "last_logits", logits)
    monkeypatch.setattr(batch, "earlier_logits", before)
    lone = Lone(np.zeros((LENGTH - 1, 1), np.int32), tuple(range(LENGTH - 1)))
    monkeypatch.setattr(batch, "lone_logits", lambda engine, prompt: lone)


LENGTH = 24  # of the prompt, in the amplifier's tokens
SAME, OTHER = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0000002]


@pytest.mark.parametrize(
    ("answer", "verdict", "varies_with"),
    [
        (lambda rows, slot, decoded: SAME, Verdict.IDENTICAL, []),
        (lambda rows, slot, decoded: OTHER if rows > 2 else SAME, Verdict.BATCH_VARIANT, ["batch"]),
        (lambda rows, slot, decoded: OTHER if decoded else SAME, Verdict.BATCH_VARIANT, ["chunk"]),
        (lambda rows, slot, decoded, pads: OTHER if pads else SAME, Verdict.BATCH_VARIANT, ["padding"]),
        (
            lambda rows, slot, decoded, pads: OTHER if (LENGTH + pads) % 32 == 1 else SAME,
            Verdict.BATCH_VARIANT,
            ["padding"],
        ),
        (lambda rows, slot, decoded, pads: OTHER if pads and rows > 1 else SAME, Verdict.BATCH_VARIANT, ["batch"]),
        (
            lambda rows, slot, decoded, pads: OTHER if pads or rows > 2 else SAME,
            Verdict.BATCH_VARIANT,
            ["batch", "padding"],
        ),
    ],
)
def test_verdicts(tmp_path, monkeypatch, loaded, answer, verdict, varies_with):
    scripted(monkeypatch, answer)
    ran = run(tmp_path)
    (found,) = ran.findings
    assert (found.verdict, found.evidence["varies_with"]) == (verdict, varies_with), found.note
    assert {name for name in found.evidence["conditions"] if not name.startswith("padded")} == {
        "alone", "batch-2", "ragged-2", "batch-4", "ragged-4", "mixed-2", "decode-1", "decode-2",
    }  # fmt: skip
    assert found.distinct == 1 or found.metrics["max_ulp"] == 1.0


def test_the_amplifier_reacts_and_the_run_is_read_again_and_resumed(tmp_path, loaded, monkeypatch):
    ran = run(tmp_path)
    (found,) = ran.findings
    assert found.verdict is Verdict.BATCH_VARIANT and found.evidence["unit"] == "element", found.note
    assert found.evidence["batch_sizes"].keys() == {"1", "2", "4"} and found.missing == 0
    assert runner.load(ran.path).findings == ran.findings
    monkeypatch.setattr(folder, "FLUSH_S", 0.0)

    def stop(progress):
        if progress.done > 6:
            raise KeyboardInterrupt

    part = run(tmp_path, stop)
    assert part.exit_code == 130
    (again,) = runner.resume(part.path).findings
    assert (again.samples, again.distinct) == (found.samples, found.distinct)


def test_decoding_is_another_way_to_the_same_logits(amplifier):
    prompt = amplifier.encode(PROMPT)
    whole, dtype, seen = last_logits(amplifier, [prompt, prompt], [1])
    parts, _, seen_decoding = last_logits(amplifier, [prompt, prompt], [1], decoded=3)
    assert (dtype, seen, seen_decoding, whole.shape[0]) == ("float32", (2,), (2,), 1)
    assert np.allclose(whole.view(np.float32), parts.view(np.float32), atol=0.5)  # an amplifier
    assert whole.view(np.float32).argmax() == amplifier.complete([batch_row(prompt)], 1, True).completions[0].tokens[0]
    with pytest.raises(ValueError, match="every prompt must be longer"):
        last_logits(amplifier, [prompt, prompt[:3]], [0], decoded=3)


def batch_row(prompt):
    from detcheck.engine import Row

    return Row(tuple(prompt))


def test_what_the_default_leaves_out_is_said(tmp_path, loaded, monkeypatch):
    scripted(monkeypatch, lambda rows, slot, decoded: SAME)
    (found,) = run(tmp_path, batch_sizes=None).findings
    assert found.verdict is Verdict.IDENTICAL and "64" in found.evidence["sizes"]
    assert any(str(line).startswith("batch-257: ask with --batch-sizes") for line in found.evidence["not_tried"])


@pytest.mark.parametrize("counts_padding", [True, False])
def test_positions_that_count_padding_are_told_from_kernels(detcheck, tmp_path, monkeypatch, counts_padding):
    """A real model on kernels of ours. Without position ids it numbers its tokens itself, pad tokens included."""

    class Counting(TransformersEngine):
        def load(self, *given):
            super().load(*given)
            self._accepts_positions = not counts_padding

    monkeypatch.setattr("detcheck.engines.transformers.engine.TransformersEngine", Counting)
    folder = llama_like(tmp_path / "model")
    asked = ["--prompt", PROMPT, "--batch-sizes", "1,2,4", "--kernels", "batch-invariant", "--format", "json", "-q"]
    result = detcheck("batch", "--model", folder, *asked)
    (finding,) = json.loads(result.out)["findings"]
    if not counts_padding:
        assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
        return
    assert (result.code, finding["verdict"], finding["evidence"]["varies_with"]) == (1, "batch-variant", ["padding"])
    assert "padding reaches the arithmetic itself" in finding["note"]
    shown = detcheck("report", only_run(tmp_path / "runs"))
    assert "here no kernel changes bits, padding does" in " ".join(shown.out.split())


OURS = ["--prompt", PROMPT, "--batch-sizes", "1,2,4", "--kernels", "batch-invariant", "--format", "json", "-q"]


def planted(monkeypatch, fault):
    """Logits of every forward pass become others by `fault(them)`."""
    plain = TransformersEngine.forward

    def forward(self, *given, **how):
        logits, cache = plain(self, *given, **how)
        return fault(logits.clone()), cache

    monkeypatch.setattr(TransformersEngine, "forward", forward)


def at_the_first(logits):
    if len(logits) > 2 and logits.shape[1] > 1:
        logits[:, 0] *= 1.001
    return logits


def in_the_middle(logits):
    if len(logits) > 2 and logits.shape[1] > 1:
        logits[:, 5:7] += 0.25
    return logits


@pytest.mark.parametrize(
    ("fault", "differing", "first"), [(None, 0, None), (at_the_first, 1, 0), (in_the_middle, 2, 5)]
)
def test_a_difference_at_any_position_is_one(detcheck, tmp_path, monkeypatch, fault, differing, first):
    """In batches of more than two; what is behind the last token stays as it is, so that no completion shows it."""
    if fault:
        planted(monkeypatch, fault)
    result = detcheck("batch", "--model", llama_like(tmp_path / "model"), *OURS)
    (finding,) = json.loads(result.out)["findings"]
    seen = finding["evidence"]["positions"]
    assert (seen["of"], seen["differing"], seen["first"], seen["last_differs"]) == (LENGTH, differing, first, False)
    shown = " ".join(detcheck("report", only_run(tmp_path / "runs")).out.split())
    if not fault:
        assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
        assert "the same bits at all 24 positions" in finding["note"] and "equal at all 24 positions" in shown
        return
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert f"logits differ at {differing} of the prompt's 24 positions" in finding["note"]
    assert "those behind the last token are equal" in finding["note"]
    assert fault is at_the_first or seen["max_abs"] == pytest.approx(0.25, rel=1e-3)
    assert f"({seen['max_ulp']:.0f} ulp) from those of the prompt alone" in shown and finding["metrics"] == {}


@pytest.mark.parametrize(("decoded", "padding", "other"), [(0, 0, 0), (0, 3, 0), (3, 0, 0), (0, 0, 9), (4, 2, -9)])
def test_positions_are_the_prompts_own_whatever_pads_it(amplifier, decoded, padding, other):
    """Against logits that the model gives without our reading, and without a cache. On ours, where rows of a batch are alike, with stock's alone to differ from."""
    ids = amplifier.encode(PROMPT)
    beside = (ids + ids)[: len(ids) + other]
    lone = lone_logits(amplifier, ids)
    with batch_invariant():
        (read, again), seen = earlier_logits(amplifier, [ids, beside, ids], [0, 2], lone, decoded, padding)
    assert seen == (3,) and np.array_equal(read.hashes, again.hashes) and len(read.hashes) == len(ids) - 1
    width = max(len(ids), len(beside)) + padding
    rows = [[0] * (width - len(row)) + list(row) for row in (ids, beside, ids)]
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in (ids, beside, ids)])
    with torch.inference_mode(), batch_invariant():
        made = amplifier._model(
            input_ids=torch.tensor(rows), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
        ).logits[0, -len(ids) : -1]
    apart = np.abs(made.numpy().astype(float) - lone.bits.view(np.float32)).max(1)
    if not decoded:  # fed as it was read, so to the bit
        assert np.allclose(read.apart[1], apart, rtol=1e-6, atol=0)
    assert all(
        (hash == known) == (far == 0) for hash, known, far in zip(read.hashes, lone.hashes, read.apart[1], strict=True)
    )


def test_alone_again_is_no_distance_from_itself(amplifier):
    ids = amplifier.encode(PROMPT)
    lone = lone_logits(amplifier, ids)
    ((read,), _) = earlier_logits(amplifier, [ids], [0], lone)
    assert not read.apart.any() and tuple(read.hashes) == lone.hashes and len(set(lone.hashes)) == len(ids) - 1


@pytest.mark.parametrize("why", ["memory", "model"])
def test_where_the_last_position_alone_can_be_had_it_is_said(tmp_path, monkeypatch, loaded, why):
    if why == "memory":
        monkeypatch.setattr(TransformersEngine, "max_rows", lambda self, tokens, logits=1: 100 if logits == 1 else 3)
    else:
        planted(monkeypatch, lambda logits: logits[:, -1:])
    scripted(monkeypatch, lambda rows, slot, decoded: SAME)
    (found,) = run(tmp_path).findings
    said = {
        "memory": "estimated to hold the logits of 3 whole rows",
        "model": "gives the logits of its last token alone",
    }[why]
    assert found.verdict is Verdict.IDENTICAL and "positions" not in found.evidence
    assert [said in str(line) for line in found.evidence["not_tried"] if line.what == "positions before the last"] == [
        True
    ]


def test_from_the_command_line(detcheck, tmp_path, loaded, monkeypatch):
    scripted(monkeypatch, lambda rows, slot, decoded: OTHER if rows > 2 else SAME)
    result = detcheck("batch", "--prompt", PROMPT, "--batch-sizes", "1,2,4", "--format", "json", "-q")
    report = json.loads(result.out)
    assert (result.code, report["verdict"]) == (1, "batch-variant")
    assert report["reproduce"] == f"detcheck batch --batch-sizes 1,2,4 --prompt '{PROMPT}'"
    shown = detcheck("report", only_run(tmp_path / "runs"))
    assert (
        shown.code == 1
        and "First element that leaves the mode" in shown.out
        and "token" not in shown.out.split("model ")[0]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "a", "--prompt-file", "b"], "not both"),
        (["--prompt-file", "nowhere.txt"], "no such file"),
        (["--model", "./nowhere"], "no such folder"),
        (["--trials", "0"], "--trials must be at least 1"),
        (["--batch-sizes", "0"], "from 1 up"),
        (["--dtype", "int4"], "--dtype int4"),
    ],
)
def test_usage_errors(detcheck, arguments, says):
    result = detcheck("batch", *arguments)
    assert result.code == 2 and says in " ".join(result.err.split()) and "Traceback" not in result.err


def rounding(x):
    """The last digits follow the number of rows."""
    return x.nextafter(torch.tensor(float("inf"))) if len(x) > 1 else x


FAULTS = {  # hook of an MLP's output -> what it varies with, ways that rounding does not explain, what is said
    "rounding": (rounding, {"batch"}, [], ""),
    "another row's numbers": (
        lambda x: x + 0.1 * x.mean(0),
        {"batch", "neighbours"},
        ["neighbours"],
        "What a neighbour holds",
    ),
    "one scale for the whole tensor": (
        lambda x: (x / x.abs().max() * 127).round() / 127 * x.abs().max(),
        {"batch", "neighbours"},
        ["neighbours"],
        "dynamic quantisation",
    ),
    "pad tokens": (lambda x: x + 0.1 * x.mean(1, keepdim=True), {"padding"}, ["padding"], "look at the attention mask"),
    "another result from four rows on": (
        lambda x: x * 1.5 if len(x) >= 4 else x,
        {"batch"},
        ["batches"],
        "is wrong in one",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rounding_padding_and_neighbours_are_told_apart(detcheck, tmp_path, monkeypatch, name):
    fault, varies_with, beyond, said = FAULTS[name]
    llama_like(tmp_path / "llama")
    load = TransformersEngine.load

    def planted(engine, *given):
        load(engine, *given)
        engine._model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, out: fault(out))

    monkeypatch.setattr(TransformersEngine, "load", planted)
    asked = "--model", tmp_path / "llama", "--prompt", PROMPT, "--batch-sizes", "1,2,8", "--kernels", "batch-invariant"
    result = detcheck("batch", *asked, "--format", "json", "-q")
    (finding,) = json.loads(result.out)["findings"]
    evidence = finding["evidence"]
    assert result.code == 1 and varies_with <= set(evidence["varies_with"]), (finding["note"], evidence["varies_with"])
    assert ("neighbours" in evidence["varies_with"]) == ("neighbours" in varies_with)
    assert set(beyond) <= set(evidence["beyond_rounding"]) and bool(beyond) == bool(evidence["beyond_rounding"]), (
        evidence["apart"]
    )
    shown = " ".join(detcheck("report", only_run(tmp_path / "runs")).out.split())
    assert said in shown and "from the row alone: " in shown


def test_every_width_of_a_tile_is_asked_for(tmp_path, loaded, monkeypatch, every_width):
    def five(rows, slot, decoded, pads):
        return OTHER if pads and (LENGTH + pads) % 32 == 5 else SAME

    scripted(monkeypatch, five)
    (found,) = run(tmp_path, batch_sizes=(2,)).findings
    assert (found.verdict, found.evidence["varies_with"]) == (Verdict.BATCH_VARIANT, ["padding"]), found.note
