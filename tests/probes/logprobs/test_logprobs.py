"""The probe `logprobs`: a sampler and a trainer on real tiny models, sound and with a fault planted for each thing that it must name."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import only_run
from misbehaving import completion, serving
from models import llama_like
from transformers import AutoModelForCausalLM

from detcheck import runner
from detcheck.probes.logprobs import trainer
from detcheck.report import render

PROMPTS = ("Tell me about Richard Feynman", "He liked radios", "Ask the same question twice, and write down every bit")
OURS = ["--kernels", "batch-invariant"]
ENGINES = [
    "--sampler",
    "transformers",
    "--trainer",
    "transformers",
    "--max-tokens",
    "8",
    "--trials",
    "1",
    "--format",
    "json",
    "-q",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def asked(detcheck, llama, write):
    """Options -> exit code and report, of a sampler and a trainer that run here on a tiny Llama."""
    file = write("prompts.jsonl", *({"prompt": text} for text in PROMPTS))

    def call(*options, model=llama):
        result = detcheck("logprobs", *ENGINES, "--prompt-file", file, "--model", model, *options)
        return result.code, json.loads(result.out) if result.out else result.err

    return call


def test_ours_scores_what_it_decoded_to_the_bit(asked):
    """Decoding token by token on a cache, a whole pass, padded and packed rows: one result."""
    code, report = asked(*OURS, "--conditions", "alone,padded-3,packed-3", "--trials", "2")
    (finding,) = report["findings"]
    assert (code, finding["verdict"], finding["samples"]) == (0, "identical", 3)
    assert {name: found["mismatching"] for name, found in finding["evidence"]["comparisons"].items()} == {
        "alone": 0, "padded-3": 0, "packed-3": 0,
    }  # fmt: skip
    assert report["environment"]["flags"]["trainer"].startswith("transformers, ")


@pytest.mark.usefixtures("reacting")
def test_both_arms_stand_side_by_side(asked):
    """Stock, which reacts to the batch here, is the control: ours is what the code is about."""
    code, report = asked("--kernels", "both", "--conditions", "alone")
    by = {f["case"]["kernels"]: f for f in report["findings"]}
    assert by["stock"]["verdict"] == "divergent" and by["stock"]["role"] == "reacts"
    assert by["batch-invariant"]["verdict"] == "identical" and code == 0


def test_a_packed_row_whose_sequences_see_each_other(asked, monkeypatch):
    def leaking(engine, rows):
        one = trainer.Asked((), tuple(t for row in rows for t in row.prompt + row.tokens))
        ids = torch.tensor([list(one.tokens)])
        logits, found, begin = engine._model(input_ids=ids, use_cache=False).logits[0], [], 0
        for row in rows:
            whole = len(row.prompt) + len(row.tokens)
            found.append(logits[begin + len(row.prompt) - 1 : begin + whole - 1])
            begin += whole
        return found

    monkeypatch.setattr(trainer, "in_one_row", leaking)
    code, report = asked(*OURS, "--conditions", "alone,packed-3")
    (finding,) = report["findings"]
    assert (code, finding["verdict"]) == (1, "batch-variant")
    assert "agree in alone, and not in packed-3" in finding["note"]
    assert finding["metrics"]["max_abs"] > 0.01


def test_a_trainer_that_does_not_repeat_itself(asked, monkeypatch):
    usual, calls = trainer.read, []

    def restless(logits, tokens, form):
        calls.append(0)
        return usual(logits, tokens, form) + (1e-6 if len(calls) == 5 else 0)

    monkeypatch.setattr(trainer, "read", restless)
    code, report = asked(*OURS, "--conditions", "alone", "--trials", "2")
    assert (code, report["verdict"]) == (1, "run-variant")


def test_a_batch_that_was_not_formed_is_no_pass(asked, monkeypatch):
    usual = trainer.in_rows
    monkeypatch.setattr(trainer, "in_rows", lambda engine, rows: [usual(engine, [row])[0] for row in rows])
    code, report = asked(*OURS, "--conditions", "padded-3")
    assert (code, report["verdict"]) == (3, "inconclusive")
    assert "not formed as asked in padded-3" in report["findings"][0]["note"]


def test_one_sequence_is_no_batch(asked, write):
    """What is asked for by name is no pass then; of the default it is left out, and said."""
    alone = ["--prompt-file", write("one.jsonl", {"prompt": PROMPTS[0]}), *OURS]
    code, report = asked(*alone, "--conditions", "padded-4,packed-4")
    assert (code, report["verdict"]) == (3, "inconclusive")
    assert "not formed as asked in padded-4, packed-4" in report["findings"][0]["note"]
    code, report = asked(*alone)
    evidence = report["findings"][0]["evidence"]
    assert (code, [*evidence["comparisons"]]) == (0, ["alone"])
    assert evidence["not_tried"] == [f"{name}-4: there is one sequence alone" for name in ("padded", "packed")]


@pytest.mark.parametrize(
    ("condition", "lengths", "expected"),
    [
        ("alone", [5], True), ("padded-1", [5], True), ("packed-1", [5], True),
        ("padded-4", [5], False), ("packed-4", [5], False), ("packed-2", [5, 5], True), ("padded-2", [5, 5], False),
        ("padded-2", [5, 6], True), ("padded-2", [5, 5, 6], False), ("padded-2", [5, None], False),
    ],
)  # fmt: skip
def test_which_sequences_make_a_batch(condition, lengths, expected):
    assert trainer.has_batches(condition, lengths) is expected


def test_weights_that_differ_in_one_bit_are_named(asked, llama, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    code, report = asked(*OURS, "--conditions", "alone", "--trainer-model", other)
    assert (code, report["findings"][0]["evidence"]["causes"]) == (0, [])
    data = bytearray((other / "model.safetensors").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = "model.layers.1.mlp.up_proj.weight"
    data[8 + int.from_bytes(data[:8], "little") + header[name]["data_offsets"][0]] ^= 1
    (other / "model.safetensors").write_bytes(data)
    code, report = asked(*OURS, "--conditions", "alone", "--trainer-model", other)
    (cause,) = report["findings"][0]["evidence"]["causes"]
    assert cause["kind"] == "weights" and cause["certain"]
    assert f"{name} has other bits (1 of {len(header) - 1} tensors)" in cause["why"]
    assert code in (1, 3)  # one bit of a weight need not reach any log-probability: that is no pass


def test_a_tokeniser_that_differs_in_one_id_is_named(asked, llama, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    text = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = text["model"]["vocab"]
    a, b = sorted(vocabulary, key=vocabulary.get)[700:702]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(text), "utf-8")
    code, report = asked(*OURS, "--conditions", "alone", "--trainer-model", other)
    (cause,) = report["findings"][0]["evidence"]["causes"]
    assert cause["kind"] == "tokenizer" and f"id {vocabulary[b]} is" in cause["why"]
    assert code == 3


@pytest.fixture(scope="module")
def sampled(llama):
    """[(prompt, tokens, logits[n, V])]: what a sampler of the same weights draws, at a temperature of 1."""
    model, generator = AutoModelForCausalLM.from_pretrained(llama), torch.Generator().manual_seed(3)
    found = []
    for n in range(4):
        prompt = list(range(300 + 10 * n, 312 + 11 * n))
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(16):
                logits = model(torch.tensor([ids])).logits[0, -1]
                ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        found.append((prompt, ids[len(prompt) :], logits))
    return found


def lines(sampled, change=lambda logits: logits):
    for prompt, tokens, logits in sampled:
        logprobs = change(logits).log_softmax(-1)[range(len(tokens)), tokens]
        yield {"prompt_ids": prompt, "completion_ids": tokens, "sampling_per_token_logps": logprobs.double().tolist()}


def kept(logits, p=0.9):
    order = logits.sort(-1, descending=True)
    before = order.values.softmax(-1).cumsum(-1) - order.values.softmax(-1)
    return logits.masked_fill((before >= p).gather(-1, order.indices.argsort(-1)), -30.0)


PROCESSED = {
    "temperature": (lambda z: z / 0.7, "divided by 0.7"),
    "softcap": (lambda z: 4 * torch.tanh(z / 4), "4 tanh"),
    "top_p": (kept, "share p of the probability"),
}


@pytest.mark.parametrize("kind", PROCESSED)
def test_what_a_file_was_processed_with_is_found_on_the_trainers_logits(detcheck, write, llama, sampled, kind):
    change, words = PROCESSED[kind]
    file = write("dump.jsonl", *lines(sampled, change))
    asked = [
        "logprobs",
        file,
        "--trainer",
        "transformers",
        "--model",
        llama,
        "--conditions",
        "alone",
        "--format",
        "json",
        "-q",
    ]
    result = detcheck(*asked)
    (finding,) = json.loads(result.out)["findings"]
    cause = finding["evidence"]["causes"][0]
    assert result.code == 1 and cause["kind"] == kind and cause["certain"] and words in cause["why"]
    assert finding["note"].startswith(cause["why"])


def test_a_file_of_raw_numbers_has_no_such_cause(detcheck, write, llama, sampled):
    file = write("dump.jsonl", *lines(sampled))
    result = detcheck(
        "logprobs",
        file,
        "--trainer",
        "transformers",
        "--model",
        llama,
        *OURS,
        "--max-diff",
        "1e-3",
        "--format",
        "json",
        "-q",
    )
    (finding,) = json.loads(result.out)["findings"]
    assert result.code == 0 and finding["evidence"]["causes"] == [] and finding["metrics"]["max_abs"] < 1e-4


def test_every_format_shows_the_two_sides(detcheck, write, llama, sampled):
    other = [
        dict(line, sampling_per_token_logps=[x - 1e-3 * n for n, x in enumerate(line["sampling_per_token_logps"])])
        for line in lines(sampled)
    ]
    a, b = write("a.jsonl", *lines(sampled)), write("b.jsonl", *(json.loads(json.dumps(o).replace("sampling_per_token_logps", "old_per_token_logps")) for o in other))  # fmt: skip
    assert detcheck("logprobs", a, b, "-q", "--output-dir", "runs").code == 1
    run = runner.load(only_run(a.parent / "runs"))
    page = render(run, "html")
    assert 'aria-label="Differences along the sequence"' in page and "KL(sampler || trainer)" in page
    for format in ("md", "junit"):
        assert "effective sample size" in render(run, format)
    names = json.loads(render(run, "json"))["findings"][0]["metrics"]
    assert {"k1", "k2", "k3", "k3_error", "share", "max_abs", "ess_tokens", "ess_sequences"} <= set(names)
    np.testing.assert_allclose(names["max_abs"], 0.015, rtol=1e-3)


BAD = {
    "one side": (["--sampler", "vllm"], "needs two sides"),
    "nobody": (["--sampler", "nobody", "--trainer", "transformers"], "--sampler nobody"),
    "a trainer": (["--sampler", "vllm", "--trainer", "vllm"], "--trainer vllm"),
    "a condition": (
        ["--sampler", "transformers", "--trainer", "transformers", "--conditions", "ragged-2"],
        "--conditions ragged-2",
    ),
    "samples of a file": ([__file__, "--trainer", "transformers", "-n", "3"], "has the sequences"),
    "no file": (["nowhere.jsonl"], "no such file"),
    "tokens": (["--sampler", "vllm", "--trainer", "transformers", "--fail-on", "tokens"], "--fail-on tokens"),
    "a limit": (["--sampler", "vllm", "--trainer", "transformers", "--max-kl", "nan"], "--max-kl wants nats"),
    "samples": (["--sampler", "vllm", "--trainer", "transformers", "-n", "3"], "greedy samples of one prompt are one"),
    "sampling": (["--sampler", "vllm", "--trainer", "transformers", "--sampling", "heat=3"], "--sampling heat=3"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_asked_is_refused_in_words(detcheck, kind):
    arguments, words = BAD[kind]
    result = detcheck("logprobs", *arguments)
    assert result.code == 2 and words in result.err


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_server_as_the_sampler(detcheck, llama, temperature):
    """It has the model's own numbers, or, at 0.7, those behind a temperature that it does not speak of."""
    model = AutoModelForCausalLM.from_pretrained(llama)

    def answer(handler, body, number, together):
        whole = completion(handler.server, body, number)
        choice = whole["choices"][0]
        prompt, tokens = choice.get("prompt_token_ids"), choice.get("token_ids")
        if prompt and choice.get("logprobs"):
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            logprobs = (logits / temperature).log_softmax(-1)[range(len(tokens)), tokens]
            choice["logprobs"]["token_logprobs"] = logprobs.double().tolist()
        return whole

    with serving(answer, metrics=True) as server:
        asked = [
            "--sampler",
            server.url,
            "--trainer",
            "transformers",
            "--model",
            llama,
            "--conditions",
            "alone",
            "--max-tokens",
            "12",
        ]
        result = detcheck(
            "logprobs", *asked, "--prompt", "Take it apart", "--max-diff", "1e-3", "--format", "json", "-q"
        )
    report = json.loads(result.out)
    (finding,) = report["findings"]
    named = [cause["kind"] for cause in finding["evidence"]["causes"]]
    assert finding["samples"] == 1 and finding["metrics"]["tokens"] == 12
    assert (result.code, named) == ((0, []) if temperature == 1 else (1, ["temperature"])), finding["note"]
    assert report["environment"]["flags"]["sampler"].endswith(server.url)


def test_a_server_without_token_ids_is_refused(detcheck, llama):
    with serving(ids=False) as server:
        result = detcheck(
            "logprobs", "--sampler", server.url, "--trainer", "transformers", "--model", llama, "--prompt", "Take", "-q"
        )
    assert result.code == 2 and "gives no token ids" in result.err


def test_the_first_mismatch_is_shown_in_its_text(asked, monkeypatch):
    """One token's number, moved by its last bit."""
    plain = trainer.score

    def moved(*arguments, **options):
        scored, formed = plain(*arguments, **options)
        scored[0][4] = np.nextafter(scored[0][4], np.float32(-np.inf))
        return scored, formed

    monkeypatch.setattr(trainer, "score", moved)
    code, report = asked(*OURS, "--conditions", "alone")
    (finding,) = report["findings"]
    first = finding["evidence"]["first_mismatch"]
    before, own, behind = first["around"]
    assert (code, finding["metrics"]["mismatching"], first["index"]) == (1, 3, 4)  # of each sequence
    assert own and first["text"] == before + own + behind and len(before.split()) >= 1


def test_stock_and_ours_stand_side_by_side(detcheck, llama, reacting):
    words = [w for w in ENGINES if w not in ("--format", "json")]
    result = detcheck(
        "logprobs", *words, "--prompt", PROMPTS[0], "--model", llama, "--kernels", "both", "--conditions", "alone"
    )
    rows = [line.split()[:3] for line in result.out.splitlines() if line.startswith(("ours ", "stock "))]
    assert (
        result.code == 0
        and rows[0] == ["ours", "alone", "0"]
        and rows[1][:2] == ["stock", "alone"]
        and rows[1][2] != "0"
    )
