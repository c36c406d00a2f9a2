"""Conversations through the command and the engines: planted partings are found at their turn and token, and sound ones pass."""

import importlib.resources
import json

import jsonschema
import pytest
from conftest import only_run
from models import llama_like
from scripted import Scripted, completion, observe_asked

from detcheck import runner
from detcheck.errors import FailedError, UsageError
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.report import render
from detcheck.spec import Spec

SCRIPT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say a number."},
        {"role": "user", "content": "And another."},
        {"role": "user", "content": "And the last."},
    ]
}
TRACE = {
    "messages": [
        {"role": "user", "content": "Who was he?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "Born in 1918."},
        {"role": "assistant", "content": "He was born in 1918."},
    ]
}


class Talking(Scripted):
    """Answers by `answer(rows, slot, call, turn)`, and keeps what it was asked."""

    def __init__(self, answer, **how):
        self.asked = []
        super().__init__(lambda rows, slot, call: answer(rows, slot, call, self.turn()), **how)

    def turn(self):
        """Of the rows that are asked now, by their history."""
        history = bytes(next(row.prompt for row in self.asked[-1] if row.continuation is None))
        return 1 + (b"another" in history) + (b"the last" in history)

    def encode_chat(self, messages):
        return tuple("".join(m["content"] for m in messages).encode())

    def encode_later(self, first, later):
        return tuple((1, *self.encode_chat(group), 2) for group in later)

    def complete(self, rows, max_tokens, ignore_eos, padding=0):
        self.asked.append(rows)
        return super().complete(rows, max_tokens, ignore_eos, padding)


@pytest.fixture
def observe(write):
    """A talking engine -> (the finding on a conversation of three turns, observations)."""

    def call(engine, samples=16, max_tokens=4, **own):
        options = Options(
            samples=samples, prompt_file=str(write("talk.jsonl", SCRIPT)), turns=True, max_tokens=max_tokens, **own
        )
        return observe_asked(engine, Spec("completions", options))

    return call


def sound(rows, slot, call, turn):
    return completion([10 * turn, 10 * turn + 1, 10 * turn + 2, 10 * turn + 3])


def test_a_sound_conversation_passes_and_answers_are_fed_back(observe):
    engine = Talking(sound)
    finding, observations = observe(engine)
    assert finding.verdict == "identical" and "the same bits in all 3 turns" in finding.note, finding.note
    assert finding.evidence["turns"]["same"] == [16, 16, 16]
    first, second, third = (rows[0].prompt for rows in engine.asked[:3])
    assert second == (*first, 10, 11, 12, 13, 1, *b"And another.", 2)
    assert third == (*second, 20, 21, 22, 23, 1, *b"And the last.", 2)
    assert observations[0].turns == ((len(first), None), (len(second), None), (len(third), None))


def test_the_end_token_of_an_answer_is_written_by_the_template_alone(observe):
    engine = Talking(lambda *place: completion([7, 7, 0], finish_reason="stop"))
    observe(engine)
    first, second, _ = (rows[0].prompt for rows in engine.asked[:3])
    assert second[len(first) :][:3] == (7, 7, 1)


def test_fillers_are_conversations_too_and_the_same_in_every_trial(observe):
    engine = Talking(sound)
    observe(engine)
    large = [rows for rows in engine.asked if len(rows) == 8][:6]
    assert len({len(row.prompt) for row in large[2]}) == 1, "rows of batch-N stay equally long"
    assert large[:3] == large[3:]
    fillers = [[row for row in rows if row.continuation] for rows in large[:3]]
    assert fillers[1][0].prompt[: len(fillers[0][0].prompt)] == fillers[0][0].prompt


@pytest.mark.parametrize(("turn", "token"), [(1, 0), (2, 2), (3, 3)])
def test_a_planted_parting_is_found_at_its_turn_and_token(observe, turn, token):
    def planted(rows, slot, call, now):
        made = list(sound(rows, slot, call, now).tokens)
        if rows >= 3 and now >= turn:  # what follows a parting differs too
            made[token:] = [99] * (4 - token) if now == turn else [98] * (4 - token)
        return completion(made)

    finding, _ = observe(Talking(planted))
    talk = finding.evidence["turns"]
    assert finding.verdict == "batch-variant"
    assert f"answers part first in turn {turn}, at token {token}" in finding.note
    parted = talk["partings"][0][2]
    assert talk["partings"] == [[turn, token, parted]] and 0 < parted < 16
    assert talk["same"] == [16] * (turn - 1) + [16 - parted] * (4 - turn)
    assert [fork.place for fork in finding.forks] == [(turn, token)]


def test_a_parting_in_bits_alone_is_found_too(observe):
    finding, _ = observe(Talking(lambda rows, s, c, turn: completion([5, 6, 7, 8], bits=rows >= 3 and turn == 2)))
    assert finding.latent and "log-probabilities or ends part first in turn 2, at token 0" in finding.note
    assert finding.evidence["turns"]["same"] == [16] * 3 and finding.evidence["turns"]["same_bits"][1] < 16


def test_a_turn_that_does_not_repeat_is_the_runs_own(observe):
    noise = lambda rows, s, call, turn: completion([5, 6, 7, 8 + (turn == 2 and call % 2)])  # noqa: E731
    finding, _ = observe(Talking(noise))
    assert finding.verdict == "run-variant" and "part first in turn 2, at token 3" in finding.note


def test_what_was_observed_before_a_turn_was_lost_is_kept(observe):
    lost = lambda rows, slot, call, turn: None if turn == 2 and call > 20 else sound(rows, slot, call, turn)  # noqa: E731
    finding, observations = observe(Talking(lost))
    broken = [o for o in observations if o.missing]
    assert finding.verdict == "inconclusive" and finding.missing == len(broken) > 0
    assert all(o.missing.startswith("turn 2 of 3: the engine returned no completion") and o.outcome for o in broken)
    assert finding.evidence["turns"]["samples"] == [16, 16 - len(broken), 16 - len(broken)]
    assert "turn 2 of 3" in finding.note


def test_where_one_sample_of_a_batch_is_lost_its_batch_is_not_asked_on(observe):
    first = lambda rows, slot, call, turn: None if rows == 8 and slot == 0 and turn == 1 else sound(rows, slot, call, 1)  # noqa: E731
    engine = Talking(first)
    finding, observations = observe(engine, samples=64)
    reasons = {o.missing for o in observations if o.condition.name == "batch-8"}
    assert reasons == {
        "turn 1 of 3: the engine returned no completion",
        "turn 2 of 3: another sample of its batch did not come",
    }
    assert finding.verdict == "inconclusive"


def test_an_engine_that_dies_between_turns_leaves_what_was_answered_and_ends_the_run(ask, amplifier, monkeypatch):
    complete, asked = amplifier.complete, []

    def dying(*arguments, **how):
        asked.append(arguments)
        if len(asked) == 4:  # turn 2 of the second step
            raise FailedError("the process ended by signal 9")
        return complete(*arguments, **how)

    monkeypatch.setattr(amplifier, "complete", dying)
    monkeypatch.setattr("detcheck.engines.transformers.engine.TransformersEngine", lambda *_, **__: amplifier)
    code, report, _ = ask(TRACE, arguments=("-n", "4", "--max-tokens", "2", "--batch-sizes", "1"))
    (finding,) = report["findings"]
    assert code == 3 and finding["evidence"]["turns"]["samples"] == [2, 1]
    assert finding["evidence"]["missing"] == {
        "turn 2 of 2: the process ended by signal 9": 1,
        "the run stopped before them": 2,
    }
    assert report["summary"]["warnings"] == ["the run ended early: the process ended by signal 9"]


def test_answers_that_broke_off_and_differ_are_a_divergence(observe):
    def broken(rows, slot, call, turn):
        return completion([5, 6, 7, 8 + (rows > 2)]) if turn == 1 else None

    finding, _ = observe(Talking(broken))
    assert finding.verdict == "divergent" and finding.samples == 0
    assert "part first in turn 1, at token 3" in finding.note


def test_where_nothing_came_to_its_end_the_run_is_no_failure(observe):
    finding, _ = observe(Talking(lambda rows, s, c, turn: sound(rows, s, c, turn) if turn == 1 else None))
    assert finding.verdict == "inconclusive" and finding.missing == 16
    assert finding.evidence["turns"]["samples"] == [16, 0, 0]


def test_a_full_context_is_said_in_words(observe):
    engine = Talking(lambda rows, s, c, turn: completion([5] * 40))
    engine.context = 150
    finding, observations = observe(engine, max_tokens=40)
    assert finding.verdict == "inconclusive"
    assert "turn 3 of 3: the context is full: with --max-tokens 40 the history of" in finding.note
    assert "scripted holds 150. Ask for fewer tokens or turns" in finding.note
    assert all(o.outcome and len(o.turns) == 2 for o in observations)


def test_a_last_turn_that_can_never_fit_is_refused_before_the_first(observe):
    engine = Talking(sound)
    engine.context = 60
    with pytest.raises(UsageError, match="in its turn 3 the context is full"):
        observe(engine, max_tokens=16)


@pytest.fixture
def ask(detcheck, write):
    """Through the command, on the amplifier: -> (exit code, report, its run)."""

    def call(*lines, arguments=()):
        file = write("talk.jsonl", *lines)
        how = ("--turns", "--ignore-eos", "--format", "json", "-q")
        result = detcheck("completions", "--prompt-file", file, *how, *arguments)
        return result.code, json.loads(result.out), file.parent / "runs"

    return call


SMALL = ("-n", "6", "--max-tokens", "6", "--batch-sizes", "1,3")


def test_the_amplifier_on_our_kernels_is_the_same_in_every_turn_where_stock_is_not(ask, reacting):
    code, report, runs = ask(TRACE, arguments=(*SMALL, "--kernels", "both"))
    schema = json.loads((importlib.resources.files("detcheck") / "formats" / "report.schema.json").read_text())
    jsonschema.validate(report, schema)
    findings = {f["case"]["kernels"]: f for f in report["findings"]}
    assert (code, findings["batch-invariant"]["verdict"]) == (0, "identical"), findings["batch-invariant"]["note"]
    assert "in all 2 turns" in findings["batch-invariant"]["note"]
    assert findings["stock"]["verdict"] == "batch-variant" and "part first in turn" in findings["stock"]["note"]
    assert findings["batch-invariant"]["evidence"]["turns"]["same_bits"] == [6, 6]
    run = runner.load(only_run(runs))
    assert run.verdict == "identical", "judged again from what is stored"
    for format in ("terminal", "md", "html", "junit"):
        assert "of conversations of 2 turns are still the same" in render(run, format), format
    assert "at turn " in render(run, "terminal") or not any(f.forks for f in run.findings if f.role == "gates")


def test_a_second_turn_is_the_prompt_that_its_history_makes(amplifier, write):
    """Against the engine itself, asked by hand."""
    from detcheck.engine import Row

    file = write("talk.jsonl", TRACE)
    options = Options(samples=1, prompt_file=str(file), turns=True, max_tokens=6, ignore_eos=True)
    probe = Completions(Spec("completions", options), amplifier)
    _, (outcome,) = probe.observe(probe.subject.schedule.steps[0])
    first = amplifier.encode_chat(TRACE["messages"][:1])
    with amplifier.running("stock"):
        one = amplifier.complete([Row(first)], 6, True).completions[0].tokens
        tail = amplifier._tokenizer("\ntool: Born in 1918.\nassistant:", add_special_tokens=False)["input_ids"]
        two = amplifier.complete([Row((*first, *one, *tail))], 6, True).completions[0].tokens
    assert outcome.turns.tolist() == [6, 6] and tuple(outcome.tokens) == (*one, *two)


def test_a_model_that_ends_its_answers_goes_on_behind_the_end(tmp_path, detcheck, write):
    """A plain Llama whose end token is one that it says."""
    model = llama_like(tmp_path / "model")
    file = write("talk.jsonl", SCRIPT)
    how = ("--model", model, "--prompt-file", file, "--turns", "--format", "json", "-q", "-n", "6", "--max-tokens", "8")
    result = detcheck("completions", *how, "--batch-sizes", "1,2")
    assert result.code in (0, 1), result.err
    said = runner.stored(only_run(tmp_path / "runs"))[2]
    end = int(next(iter(said.values())).tokens[2])
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": end}))
    result = detcheck("completions", *how, "--batch-sizes", "1,2", "--output-dir", "again")
    outcomes = runner.stored(only_run(tmp_path / "again"))[2].values()
    assert all(len(o.turns) == 3 and "stop" in o.finish_reason for o in outcomes)
    assert all(int(o.tokens[o.turns[0] - 1]) == end for o in outcomes)
    assert result.code in (0, 1)


def test_a_run_of_conversations_is_resumed_compared_and_no_question_for_bisect(ask, detcheck, tmp_path):
    code, _, runs = ask(TRACE, arguments=(*SMALL, "--kernels", "batch-invariant"))
    assert code == 0
    run = only_run(runs)
    for part in sorted((run / "observations").iterdir()):
        part.unlink()
    result = detcheck("completions", "--resume", run, "-q")
    assert result.code == 0, result.err
    result = detcheck("compare", run, run / "baseline.json")
    assert result.code == 0, result.out
    result = detcheck("bisect", run, "-q")
    assert result.code == 2 and "is a run of conversations (--turns)" in result.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--turns",), "--turns is about conversations: give them with --prompt-file"),
        (("--turns", "--prompt", "x"), "--turns is about conversations"),
        (("--turns", "--prompt-file", "talk.jsonl"), "talk.jsonl, line 1: found \"{'prompt'"),
    ],
)
def test_what_is_no_conversation_is_refused(detcheck, write, arguments, why):
    write("talk.jsonl", {"prompt": "x"})
    result = detcheck("completions", *arguments)
    assert result.code == 2 and why in result.err, result.err
