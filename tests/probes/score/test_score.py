"""The probe `score`: given tokens on real tiny models, sound and with a fault planted, and on log-probabilities that we wrote."""

import json

import numpy as np
import pytest
import torch
from conftest import only_run
from models import llama_like
from planted import gpt2_like

from detcheck import runner
from detcheck.engine import Completion, Decoded, Row
from detcheck.engines.transformers import engine as engines
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.likelihood import likelihood
from detcheck.outcomes import outcome
from detcheck.probes.score import sampler, session
from detcheck.probes.score.greedy import greedy
from detcheck.probes.score.options import Options
from detcheck.probes.score.pairs import Pair
from detcheck.probes.score.session import Score
from detcheck.report import render
from detcheck.spec import Spec
from detcheck.storage import folder
from detcheck.storage.folder import RunFolder
from detcheck.verdict import Verdict

PROMPT, CONTINUATION = "Tell me about Richard Feynman", " and his drums"
ASKED = ["--prompt", PROMPT, "--continuation", CONTINUATION, "--format", "json", "-q"]
OURS = ["--kernels", "batch-invariant", "-n", "24", "--batch-sizes", "1,2,4"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(llama_like(tmp_path_factory.mktemp("llama")))


@pytest.fixture
def loaded(monkeypatch, amplifier):
    """The probe with the engine that is loaded already."""
    monkeypatch.setattr(session, "open_session", lambda spec, planned=None: Score(spec, amplifier, planned))


def run(tmp_path, on_progress=None, samples=24, **spec):
    own = Options(samples, PROMPT, CONTINUATION)
    return runner.run(Spec("score", own, **{"batch_sizes": (1, 2, 4)} | spec), tmp_path / "runs", on_progress)


def scripted(monkeypatch, answer):
    """Log-probabilities by answer(rows, slot, pads, call): how many ulp they are moved by; or (ulp, whether all are greedy)."""
    calls = []

    def made(engine, rows, slots, given, padding=0):
        calls.append(rows)
        width, found = max(map(len, rows)) + padding, {}
        for slot in slots:
            told = answer(len(rows), slot, width - len(rows[slot]), len(calls))
            ulp, greedy = told if isinstance(told, tuple) else (told, True)
            logprobs = (np.full(given, -1.0, np.float32).view(np.uint32) + np.uint32(ulp)).view(np.float32)
            margins = np.full(given, 0.5 if greedy else -0.5, np.float32)
            found[slot] = Completion(tuple(rows[slot][-given:]), logprobs, margins, (0,) * given, "")
        return Decoded(found, (len(rows),))

    monkeypatch.setattr(sampler, "likelihood", made)


@pytest.mark.parametrize(
    ("answer", "verdict", "varies_with"),
    [
        (lambda rows, slot, pads, call: 0, Verdict.IDENTICAL, []),
        (lambda rows, slot, pads, call: int(rows > 2), Verdict.BATCH_VARIANT, ["batch"]),
        (lambda rows, slot, pads, call: int(pads > 0), Verdict.BATCH_VARIANT, ["padding"]),
        (lambda rows, slot, pads, call: int(pads > 0 and rows > 1), Verdict.BATCH_VARIANT, ["batch"]),
        (lambda rows, slot, pads, call: call % 2, Verdict.RUN_VARIANT, []),
        (lambda rows, slot, pads, call: (0, rows < 4), Verdict.BATCH_VARIANT, ["batch"]),
    ],
)
def test_verdicts(tmp_path, monkeypatch, loaded, answer, verdict, varies_with):
    scripted(monkeypatch, answer)
    ran = run(tmp_path)
    (found,) = ran.findings
    assert (found.verdict, found.evidence["varies_with"]) == (verdict, varies_with), found.note
    assert {n for n in found.evidence["conditions"] if not n.startswith("padded")} == {
        "alone", "batch-2", "ragged-2", "batch-4", "ragged-4",
    }  # fmt: skip
    assert sum(n.startswith("padded") for n in found.evidence["conditions"]) >= 6
    assert ran.exit_code == (0 if verdict is Verdict.IDENTICAL else 1)
    assert runner.load(ran.path).findings == ran.findings


def test_what_is_said_of_given_tokens(tmp_path, monkeypatch, loaded):
    scripted(monkeypatch, lambda rows, slot, pads, call: (0, rows < 4))
    said = " ".join(render(run(tmp_path), "terminal").split())
    assert "log-likelihood of the 12 given tokens: -12 nats" in said
    assert "samples each given token is the greedy one, in the others not" in said
    assert "latent" not in said and "reasons to finish" not in said
    scripted(monkeypatch, lambda rows, slot, pads, call: int(pads > 0))
    said = " ".join(render(run(tmp_path), "md").split())
    assert "each is the greedy token" in said and "the width of the batch leads to another order" in said
    scripted(monkeypatch, lambda rows, slot, pads, call: (0, False))
    assert "not each of them is the greedy token" in render(run(tmp_path), "terminal")


def test_a_run_is_resumed(tmp_path, monkeypatch, loaded):
    scripted(monkeypatch, lambda rows, slot, pads, call: int(rows > 2))
    monkeypatch.setattr(folder, "FLUSH_S", 0.0)

    def stop(progress):
        if progress.done > 6:
            raise KeyboardInterrupt

    whole, part = run(tmp_path), run(tmp_path, stop)
    assert part.exit_code == 130
    (again,), (found,) = runner.resume(part.path).findings, whole.findings
    assert (again.samples, again.distinct_bits) == (found.samples, found.distinct_bits)


def direct(model, context, continuation):
    """What transformers gives for it: (log-probability, whether it is the greedy one) of each token."""
    whole = torch.tensor([list(context) + list(continuation)])
    with torch.inference_mode():
        logits = model(input_ids=whole).logits.float()[0, len(context) - 1 : -1]
    own = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None])[:, 0]
    return own.numpy(), (logits.argmax(-1) == torch.tensor(continuation)).numpy()


def stored(made):
    numbers = {"logprobs": made.logprobs, "margins": made.margins, "runners_up": np.asarray(made.runners_up)}
    return outcome(np.asarray(made.tokens), **numbers)


@pytest.mark.parametrize("made", [llama_like, gpt2_like])
def test_agrees_with_transformers(made, tmp_path):
    engine = TransformersEngine(str(made(tmp_path)))
    engine.load()
    context, other = engine.encode(PROMPT), engine.encode(CONTINUATION)
    (completion,) = engine.complete([Row(context)], 8, True).completions.values()
    for given in (completion.tokens, other):
        row = context + tuple(given)
        expected, leads = direct(engine._model, context, given)
        for rows in ([row], [row, row + row[:9], row[:7]]):
            found = likelihood(engine, rows, [0], len(given)).completions[0]
            assert found.tokens == tuple(given) and found.logprobs.dtype == np.float32
            assert np.allclose(found.logprobs, expected, atol=1e-4)
            assert ((found.margins > 0) == leads).all()
        assert greedy(stored(found)) == leads.all()
    assert not leads.all()
    by_likelihood = likelihood(engine, [context + completion.tokens], [0], 8).completions[0]
    assert np.allclose(by_likelihood.margins, completion.margins, atol=1e-3)
    assert by_likelihood.runners_up == completion.runners_up


def test_of_equal_logits_the_lower_id_is_the_greedy_one():
    tie = np.zeros(1, np.float32)
    assert greedy(stored(Completion((5,), tie, tie, (7,), "")))
    assert not greedy(stored(Completion((7,), tie, tie, (5,), "")))


def test_a_sound_model_passes_on_ours_and_gives_what_transformers_gives(detcheck, tmp_path, llama):
    result = detcheck("score", "--model", llama, *ASKED, *OURS)
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
    assert "uncovered" not in finding["note"] and finding["evidence"]["coverage"]["overridden"]
    engine = TransformersEngine(llama)
    engine.load()
    context, whole = engine.encode(PROMPT), engine.encode(PROMPT + CONTINUATION)
    expected, _ = direct(engine._model, context, whole[len(context) :])
    (outcome,) = RunFolder(only_run(tmp_path / "runs")).outcomes().values()
    assert tuple(outcome.tokens) == whole[len(context) :] and outcome.text == CONTINUATION
    assert np.allclose(outcome.logprobs, expected, atol=1e-4)
    assert finding["metrics"]["loglikelihood"] == pytest.approx(float(expected.sum()), abs=1e-3)


@pytest.mark.parametrize(
    ("strikes", "varies_with"),
    [(lambda rows, width: rows >= 4, ["batch"]), (lambda rows, width: width % 32 == 1, ["padding"])],
)
def test_a_planted_fault_is_caught(detcheck, tmp_path, monkeypatch, llama, strikes, varies_with):
    """One layer's output is an ulp off in some batches, or at some widths."""
    load = engines.TransformersEngine.load

    def planted(engine, *given):
        load(engine, *given)

        def strike(module, inputs, out):
            return out.nextafter(torch.tensor(float("inf"))) if strikes(*out.shape[:2]) else out

        engine._model.model.layers[0].mlp.register_forward_hook(strike)

    monkeypatch.setattr(engines.TransformersEngine, "load", planted)
    result = detcheck("score", "--model", llama, *ASKED, *OURS)
    (finding,) = json.loads(result.out)["findings"]
    assert (result.code, finding["verdict"]) == (1, "batch-variant"), finding["note"]
    assert finding["evidence"]["varies_with"] == varies_with and finding["distinct"] == 1
    shown = " ".join(detcheck("report", only_run(tmp_path / "runs")).out.split())
    assert ("adds over the whole width, padding included" in shown) == (varies_with == ["padding"])


def test_a_file_of_pairs(detcheck, write, llama):
    pairs = [{"prompt": "The sky is", "continuation": c} for c in (" blue", " green")]
    file = write("pairs.jsonl", *pairs, "")
    result = detcheck("score", "--model", llama, "--prompt-file", file, *OURS, "--format", "json", "-q")
    report = json.loads(result.out)
    assert (result.code, len(report["findings"])) == (0, 2), result.err
    assert {f["mode_text"] for f in report["findings"]} == {" blue", " green"}


@pytest.mark.parametrize("faulty", [False, True])
def test_an_empty_continuation_asks_for_the_prompts_own_tokens(detcheck, tmp_path, monkeypatch, llama, faulty):
    """From the second on, as `prompt_logprobs` does. The fault is in the first logits of larger batches: a continuation would not show it."""
    load = engines.TransformersEngine.load

    def planted(engine, *given):
        load(engine, *given)

        def strike(module, inputs, out):
            if len(out) > 2:
                out[:, 0] *= torch.arange(out.shape[-1]) % 2 + 1
            return out

        engine._model.lm_head.register_forward_hook(strike)

    if faulty:
        monkeypatch.setattr(engines.TransformersEngine, "load", planted)
    result = detcheck(
        "score", "--model", llama, "--prompt", PROMPT, "--continuation", "", *OURS, "--format", "json", "-q"
    )
    (finding,) = json.loads(result.out)["findings"]
    if faulty:
        assert (result.code, finding["verdict"], finding["common_prefix_bits"]) == (1, "batch-variant", 0), finding[
            "note"
        ]
        return
    assert (result.code, finding["verdict"]) == (0, "identical"), finding["note"]
    engine = TransformersEngine(llama)
    engine.load()
    ids = engine.encode(PROMPT)
    expected, _ = direct(engine._model, ids[:1], ids[1:])
    (outcome,) = RunFolder(only_run(tmp_path / "runs")).outcomes().values()
    assert tuple(outcome.tokens) == ids[1:] and np.allclose(outcome.logprobs, expected, atol=1e-4)


class Merging(TransformersEngine):
    """Its tokens are letters; what stands in `merged` is one token."""

    merged = ("ab", "cd")

    def encode(self, text):
        for n, pair in enumerate(self.merged):
            text = text.replace(pair, chr(3 + n))
        return tuple(map(ord, text))


@pytest.mark.parametrize(
    ("context", "continuation", "tokens", "given", "moved"),
    [
        ("xa", "ya", "xaya", 2, False),
        ("x ", "y", "x y", 2, False),  # the space goes with what follows
        ("xa", "bcd", "x\x03\x04", 1, True),  # the context's last token is another one
        ("xc", "dyz", "x\x04yz", 2, True),
    ],
)
def test_tokens_are_cut_as_the_harness_cuts_them(context, continuation, tokens, given, moved):
    engine = Merging(None)
    engine.load()
    probe = Score(Spec("score", Options(8, context, continuation), batch_sizes=(1,)), engine)
    (prompt,) = probe.subject.inputs
    assert prompt.token_ids == tuple(map(ord, tokens)) and probe._sampler._model.given[prompt.name] == given
    assert ("seam" in probe.subject.environment.flags) == moved
    (observation,), (outcome,) = probe.observe(probe.subject.schedule.steps[0])
    assert outcome.tokens.tolist() == list(map(ord, tokens))[-given:] and observation.outcome == outcome.id
    before, _ = Pair(context, continuation=continuation).cut()
    assert len(engine.encode(before)) + given == len(tokens)  # the harness's rule


def test_the_seam_is_in_the_report(detcheck, monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "TransformersEngine", Merging)
    result = detcheck("score", "--prompt", "xa", "--continuation", "bcd", "-n", "8", "--batch-sizes", "1,2", "-q")
    assert "context's last tokens are others than alone" in " ".join(result.out.split()), result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "score needs --prompt and --continuation"),
        (["--prompt", "a"], "score needs --prompt and --continuation"),
        (["--prompt", " ", "--continuation", "b"], "--prompt is empty"),
        (
            ["--prompt", "a", "--continuation", ""],
            "has 1 token. An empty continuation asks for the prompt's own tokens",
        ),
        (["--prompt", "a", "--continuation", "b", "--prompt-file", "c"], "not both"),
        (["--prompt-file", "nowhere.jsonl"], "no such file"),
        (["--prompt", "a", "--continuation", "b", "--fail-on", "tokens"], "the tokens are given"),
        (["--prompt", "a", "--continuation", "b", "--trials", "0"], "--trials must be at least 1"),
        (["--prompt", "a", "--continuation", "b", "-n", "0"], "--samples must be at least 1"),
        (["--prompt", "a", "--continuation", " light" * 5000], "Shorten the context"),
    ],
)
def test_usage_errors(detcheck, arguments, says):
    result = detcheck("score", *arguments)
    assert result.code == 2 and says in " ".join(result.err.split()) and "Traceback" not in result.err


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["", " "], "there is nothing in it"),
        (["The sky is blue"], "line 1: not JSON"),
        ([{"prompt": "a", "continuation": "b"}, {"prompt": "a"}], "line 2: found"),
        ([{"prompt": "", "continuation": "b"}], "an empty continuation asks for the prompt itself"),
        ([{"prompt": "a", "continuation": ""}], "prompt 0 ('a') has 1 token"),
        ([{"prompt": "a", "continuation": 7}], 'wants {"prompt": "...", "continuation": "..."}'),
    ],
)
def test_files_that_are_refused(detcheck, write, lines, says):
    result = detcheck("score", "--prompt-file", write("pairs.jsonl", *lines))
    assert result.code == 2 and says in " ".join(result.err.split()) and "Traceback" not in result.err


def test_a_continuation_without_tokens_is_refused(detcheck, monkeypatch):
    monkeypatch.setattr(engines, "TransformersEngine", Merging)
    result = detcheck("score", "--prompt", "xa", "--continuation", "b")
    assert result.code == 2 and "adds no token to the 2 of the context" in " ".join(result.err.split())
