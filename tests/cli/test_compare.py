"""detcheck compare, and --baseline: the same, not the same, or not to be compared. Through the command, with runs that were made."""

import json
import shutil
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from misbehaving import completion, serving

from detcheck.hashes import content_hash
from detcheck.kernels._cpu import build
from detcheck.outcomes import outcome as make_outcome
from detcheck.records import Condition

ASK = ("completions", "-n", "8", "--max-tokens", "8", "--format", "json", "-q", "--conditions", "alone,wave-2")


def flipped(handler, body, number, together):
    return completion(handler.server, body, number, flip=True)


def latent(handler, body, number, together):
    return completion(handler.server, body, number, round_to=3)


@pytest.fixture
def run(detcheck):
    """A server's answer, and more words of the command -> its exit code, the folder of its run."""

    def make(answer=None, *more, **how):
        before = set(Path("runs").glob("*"))
        with serving(answer, metrics=True, **how) as server:
            result = detcheck(*ASK, "--base-url", server.url, *more)
        (folder,) = set(Path("runs").glob("*")) - before
        return result, folder

    return make


@pytest.fixture
def compare(detcheck):
    def call(a, b, *more):
        result = detcheck("compare", a, b, "--format", "json", *more)
        return result.code, json.loads(result.out) if result.out else result.err

    return call


def test_the_same_answers_are_the_same_from_the_folder_and_from_the_baseline(run, compare, tmp_path):
    (_, a), (_, b) = run(), run()
    kept = shutil.copy(a / "baseline.json", tmp_path / "kept.json")
    assert kept.stat().st_size < 8000
    for first in (a, kept):
        code, report = compare(first, b)
        (finding,) = report["findings"]
        assert (code, finding["verdict"]) == (0, "identical") and finding[
            "note"
        ] == "the same bits as before: 8 samples then, 8 now"
        assert (finding["samples"], finding["distinct_bits"]) == (16, 1)


def test_another_token_is_named_by_its_place_without_the_text(run, compare):
    (_, a), (_, b) = run(), run(flipped)
    shutil.rmtree(a / "outcomes")
    code, report = compare(a / "baseline.json", b)
    (finding,) = report["findings"]
    assert (code, finding["verdict"], finding["common_prefix"]) == (1, "divergent", 3)
    assert "parts from the one before at token 3" in finding["note"]
    assert finding["histogram"] == [[3, 8]] and finding["distinct"] == 2


def test_other_log_probabilities_alone_are_latent(run, compare):
    (_, a), (_, b) = run(round_to=5), run(latent)
    code, report = compare(a, b)
    assert (
        code == 1
        and report["findings"][0]["latent"]
        and "its log-probabilities part at token 0" in report["findings"][0]["note"]
    )
    assert compare(a, b, "--fail-on", "tokens")[0] == 0


def test_one_sample_in_many_is_not_the_same(run, compare):
    def once(handler, body, number, together):
        return completion(handler.server, body, number, flip=number == 12)

    (_, a), (_, b) = run(), run(once)
    code, report = compare(a, b)
    assert code == 1 and "not even equal among themselves: 2 different ones now" in report["findings"][0]["note"]


@pytest.fixture
def changed(compare, diverging, tmp_path):
    """A change of a run's baseline -> what is said of the run and the changed one: code, verdict, note, finding."""
    known = json.loads((diverging.path / "baseline.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(known))

    def against(change):
        other = json.loads(json.dumps(known))
        change(other)
        (tmp_path / "b.json").write_text(json.dumps(other))
        code, report = compare("a.json", "b.json")
        (finding,) = report["findings"]
        return code, finding["verdict"], finding["note"], finding

    against.case = known["cases"][0]
    return against


def names(case):
    return list(dict.fromkeys(s["condition"]["name"] for s in case["conditions"]))


def test_runs_that_depend_on_the_batch_are_compared_condition_by_condition(changed):
    """The same run again, one with another outcome in one condition, one that lacks a condition, and one with noise in one."""
    conditions = names(changed.case)
    assert len(conditions) > 2 and len(changed.case["outcomes"]) > 1
    code, verdict, note, finding = changed(lambda run: None)
    assert (code, verdict) == (0, "identical") and f"in each of {len(conditions)} conditions" in note
    table = finding["evidence"]["places"]
    assert set(table) == set(conditions) and all(
        n["both"] and not n["other"] and not n["alone"] for n in table.values()
    )

    def swapped(run):
        kept = run["cases"][0]["conditions"]
        kept[1]["outcome"] = next(s["outcome"] for s in kept if s["outcome"] != kept[1]["outcome"])

    name = changed.case["conditions"][1]["condition"]["name"]
    code, verdict, note, finding = changed(swapped)
    assert (code, verdict) == (1, "divergent") and f"in 1 of {len(conditions)} conditions ({name})" in note
    assert finding["evidence"]["places"][name]["other"] > 0
    last = changed.case["conditions"][-1]["condition"]["name"]

    def lacking(run):
        kept = run["cases"][0]["conditions"]
        run["cases"][0]["conditions"] = [s for s in kept if s["condition"]["name"] != last]

    code, verdict, note, finding = changed(lacking)
    assert (code, verdict) == (3, "inconclusive") and f"only the first has {last}" in note
    assert f"the same in all {len(conditions) - 1} conditions that both have" in note
    assert finding["evidence"]["places"][last]["both"] == 0
    code, verdict, note, _ = changed(lambda run: run["cases"][0].update(unsteady=1))
    assert (code, verdict) == (1, "divergent") and "not even equal among themselves" in note
    code, verdict, note, _ = changed(lambda run: (run["cases"][0].pop("conditions"), run["cases"][0].pop("unsteady")))
    assert (code, verdict) == (1, "divergent") and "not even equal among themselves" in note
    code, verdict, note, _ = changed(lambda run: run["cases"][0].update(missing=2))
    assert (code, verdict) == (3, "inconclusive") and "2 in the second" in note


def test_what_a_side_is_as_a_whole_does_not_part_its_conditions(changed):
    """Threads of the whole run, and what steps an engine made of the same requests: a condition is what was asked."""

    def threads(run):
        run["environment"]["threads"] = 64
        for settled in run["cases"][0]["conditions"]:
            settled["condition"]["threads"] = 64

    code, verdict, note, finding = changed(threads)
    assert (code, verdict) == (0, "identical")
    assert any(line.startswith("threads: ") and line.endswith(", 64 now") for line in finding["evidence"]["changed"])

    def steps(run):
        for settled in run["cases"][0]["conditions"]:
            settled["condition"] |= {"trace": "other", "batch_size": 99}

    code, verdict, note, _ = changed(steps)
    assert (code, verdict) == (0, "identical") and "the engine made other steps of " in note

    def rows(run):
        for settled in run["cases"][0]["conditions"]:
            if settled["condition"]["name"] != "alone":
                settled["condition"]["composition"] = "others"

    code, verdict, note, _ = changed(rows)
    assert (code, verdict) == (3, "inconclusive") and "in all 1 conditions that both have" in note


def test_drafts_that_never_came_are_no_sameness(changed):
    """Speculative decoding was asked of one run alone: other steps show that it happened, the same ones that it did not."""

    def drafting(run):
        run["environment"]["flags"]["vllm.speculative_config"] = '{"method": "ngram"}'

    def drafted(run):
        drafting(run)
        for settled in run["cases"][0]["conditions"]:
            settled["condition"]["trace"] = "other"

    code, verdict, note, _ = changed(drafting)
    assert (code, verdict) == (3, "inconclusive") and "no drafted token was computed" in note
    assert changed(drafted)[:2] == (0, "identical")


def test_where_equal_conditions_part_and_how_far_is_told_from_the_folders(compare, diverging, tmp_path):
    """One outcome of a run, with another last token and a log-probability before it that is other: not the commonest one's place."""
    from detcheck import runner
    from detcheck.judge import comparisons

    a = runner.baseline_of(diverging.path)
    (case,) = a.cases
    before = case.conditions[0].outcome
    payload = a.payloads[before]
    tokens, logprobs = payload.tokens.copy(), payload.logprobs.copy()
    tokens[-1] += 1
    logprobs[4] += 0.5
    other = make_outcome(tokens, logprobs=logprobs, finish_reason=payload.finish_reason)
    swap = lambda names: {(other.id if name == before else name): v for name, v in names.items()}  # noqa: E731
    conditions = tuple(replace(s, outcome=other.id if s.outcome == before else s.outcome) for s in case.conditions)
    known = replace(case, outcomes=swap(case.outcomes), tokens=swap(case.tokens), conditions=conditions)
    (finding,) = comparisons.compare(a, replace(a, cases=(known,), payloads=a.payloads | {other.id: other}))
    assert finding.verdict == "divergent" and finding.metrics["max_abs"] == pytest.approx(0.5)
    assert f"part from those before at token {len(tokens) - 1} " in finding.note
    assert finding.histogram[0][0] == len(tokens) - 1 and finding.histogram_bits[0][0] == 4
    assert finding.common_prefix < len(tokens) - 1, "conditions part from each other before that"


def test_an_older_baseline_is_compared_condition_by_condition(compare, diverging, tmp_path):
    """Its conditions are names with a hash of all that makes them."""
    known = json.loads((diverging.path / "baseline.json").read_text())
    (tmp_path / "new.json").write_text(json.dumps(known))
    older = {}
    for settled in known["cases"][0]["conditions"]:
        for slot in settled["slots"]:
            condition = Condition(**settled["condition"] | {"slot": slot})
            made_of = content_hash(repr(astuple(condition)).encode())[:12]
            older[f"{condition.name} {made_of}"] = settled["outcome"]
    known["cases"][0]["conditions"] = older
    for name in ("old.json", "older.json"):
        (tmp_path / name).write_text(json.dumps(known))
    for pair in (("old.json", "new.json"), ("new.json", "old.json"), ("old.json", "older.json")):
        code, report = compare(*pair)
        assert code == 0 and "in each of " in report["findings"][0]["note"], pair
    key = next(iter(older))
    older[key] = next(o for o in older.values() if o != older[key])
    (tmp_path / "old.json").write_text(json.dumps(known))
    code, report = compare("old.json", "new.json")
    assert (
        code == 1
        and f"in 1 of {len(names(json.loads((tmp_path / 'new.json').read_text())['cases'][0]))}"
        in report["findings"][0]["note"]
    )


OBSTACLES = {
    "another model": ({"model": "n"}, (), "the subject was m and is n"),
    "other tokens": ({}, ("--max-tokens", "6"), "--max-tokens was 8 and is 6"),
    "another prompt": ({}, ("--prompt", "Something else"), "no prompt (or other input) in common"),
    "another level": ({"logprobs": False}, (), "the first was compared by bits, the second by tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_compared_is_said_with_the_reason(run, compare, name):
    how, more, reason = OBSTACLES[name]
    (_, a), (_, b) = run(), run(None, *more, **how)
    code, report = compare(a, b)
    assert (code, report["verdict"]) == (3, "inconclusive") and reason in report["findings"][0]["note"]


def test_samples_that_are_missing_are_no_sameness(run, compare):
    def failing(handler, body, number, together):
        return handler.send({}, 500) if number == 12 else completion(handler.server, body, number)

    (_, a), (_, b) = run(), run(failing)
    code, report = compare(a, b)
    assert code == 3 and "0 samples are missing in the first run, 1 in the second" in report["findings"][0]["note"]


def test_a_baseline_in_one_go_and_its_verdict_stays_with_the_run(run, detcheck, tmp_path):
    _, a = run()
    kept = shutil.copy(a / "baseline.json", tmp_path / "kept.json")
    same, _ = run(None, "--baseline", kept)
    assert same.code == 0 and [f["case"]["probe"] for f in json.loads(same.out)["findings"]] == [
        "completions",
        "compare",
    ]
    other, folder = run(flipped, "--baseline", kept)
    found = {f["case"]["probe"]: f["verdict"] for f in json.loads(other.out)["findings"]}
    assert other.code == 1 and found == {"completions": "identical", "compare": "divergent"}
    kept.unlink()
    again = detcheck("report", folder, "--format", "json")
    assert again.code == 1 and json.loads(again.out)["findings"] == json.loads(other.out)["findings"]


def test_what_changed_around_it_is_said(run, compare, detcheck):
    (_, a), (_, b) = run(), run()
    head = json.loads((b / "run.json").read_text())
    head["environment"]["packages"]["httpx"] = "99"
    (b / "run.json").write_text(json.dumps(head))
    code, report = compare(a, b)
    changed = report["findings"][0]["evidence"]["changed"]
    assert code == 0 and any(line.startswith("packages.httpx: ") and line.endswith("99 now") for line in changed)
    assert "changed around it" in detcheck("compare", a, b).out


def test_what_is_no_baseline_is_refused_in_words(run, compare, detcheck, tmp_path):
    _, a = run()
    bad = tmp_path / "bad.json"
    for content, said in (
        ("{", "not a baseline"),
        ('{"baseline_version": 9}', "of version 9"),
        ("[]", "not a baseline"),
    ):
        bad.write_text(content)
        code, err = compare(bad, a)
        assert code == 2 and said in err
    assert compare(tmp_path / "nowhere", a)[0] == 2
    result = detcheck("completions", "--baseline", tmp_path / "nowhere", "-q")
    assert result.code == 2 and "--baseline" in result.err


def test_bfloat16_products_in_another_order_are_not_compared_and_not_mixed(detcheck, compare):
    """Of a run that says it was made on a processor with AMX; float32 has one order everywhere."""
    ask = (
        "kernels",
        "--op",
        "matmul",
        "--shapes",
        "67x33",
        "--batch-sizes",
        "1,2",
        "--kernels",
        "batch-invariant",
        "-q",
    )
    assert detcheck(*ask).code == 0
    (here,) = Path("runs").glob("*")
    made = json.loads((here / "baseline.json").read_text())
    assert made["environment"]["flags"]["bfloat16_order"] == build.order()
    made["environment"]["flags"]["bfloat16_order"] = "elsewhere"
    Path("there.json").write_text(json.dumps(made))
    code, report = compare("there.json", here)
    found = {
        f["case"]["dtype"]: (f["verdict"], f["note"]) for f in report["findings"] if f["case"]["subject"] == "matmul"
    }
    assert (code, found["float32"][0], found["bfloat16"][0]) == (3, "identical", "inconclusive")
    assert f"bfloat16 were added in elsewhere and are added in {build.order()}" in found["bfloat16"][1]
    run = here / "run.json"
    run.write_text(run.read_text().replace(f'"bfloat16_order": "{build.order()}"', '"bfloat16_order": "elsewhere"'))
    resumed = detcheck("kernels", "--resume", here)
    assert resumed.code == 2 and "bfloat16_order" in resumed.err


def test_the_real_model_on_two_kernels(detcheck, compare, reacting):
    for kernels in ("batch-invariant", "stock"):
        detcheck(
            "completions", "-n", "4", "--max-tokens", "24", "--kernels", kernels, "-q", "--conditions", "alone,batch"
        )
    a, b = sorted(Path("runs").iterdir())
    code, report = compare(a, b)
    assert code == 1 and report["findings"][0]["verdict"] == "divergent"
    assert compare(a, a / "baseline.json")[0] == 0


def test_every_probe_is_the_same_as_itself_and_another_seed_is_another_question(detcheck, compare):
    asked = (
        ("kernels", "--op", "rmsnorm", "--shapes", "67", "--dtype", "float32,bf16", "--batch-sizes", "1,2"),
        ("kernels", "--op", "silu_mul", "--shapes", "67", "--dtype", "float32", "--batch-sizes", "1,2", "--seed", "3"),
        ("matmul", "--shape", "4,8,8", "--trials", "3"),
        ("batch", "--batch-sizes", "1,2", "--kernels", "batch-invariant"),
    )
    runs = []
    for words in asked:
        before = set(Path("runs").glob("*"))
        assert detcheck(*words, "-q").code == 0
        runs += set(Path("runs").glob("*")) - before
        assert (runs[-1] / "baseline.json").stat().st_size < 60_000
        assert compare(runs[-1] / "baseline.json", runs[-1])[0] == 0
    detcheck("matmul", "--shape", "4,8,8", "--trials", "3", "--seed", "5", "-q")
    (other,) = set(Path("runs").glob("*")) - set(runs)
    code, report = compare(runs[2], other)
    assert code == 3 and "--seed was 0 and is 5" in report["findings"][0]["note"]
    assert compare(runs[0], runs[1])[0] == 3


def test_a_replica_that_is_gone_is_named(detcheck, compare):
    with serving(metrics=True) as a, serving(flipped, metrics=True) as b:
        for servers in ((a, b), (a,)):
            detcheck(*ASK, *(word for server in servers for word in ("--base-url", server.url)))
    first, second = sorted(Path("runs").iterdir())
    code, report = compare(first, second)
    assert code == 3 and {f["verdict"] for f in report["findings"]} == {"identical", "inconclusive"}


def test_completions_that_are_empty_are_no_sameness(run, compare):
    empty = {"text": "", "token_ids": [], "logprobs": {"tokens": [], "token_logprobs": []}, "finish_reason": "stop"}
    (_, a), (_, b) = (
        run(lambda h, body, n, t: completion(h.server, body, n, choice=empty, usage=None)) for _ in range(2)
    )
    code, report = compare(a, b)
    assert code == 3 and "nothing was compared" in report["findings"][0]["note"]


@pytest.mark.parametrize(
    "damage",
    [
        {"asked": []}, {"digests": []}, {"digests": {"model": 1}}, {"environment": None}, {"cases": {}}, {"cases": [3]}, {"probe": 1},
        {"missing": None}, {"outcomes": {"h": "x"}}, {"outcomes": []}, {"tokens": {}}, {"case": {"input": [1]}}, {"prefixes": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_baseline_is_refused_in_words(run, compare, damage, tmp_path):
    _, a = run()
    whole = json.loads((a / "baseline.json").read_text())
    (whole if set(damage) <= set(whole) else whole["cases"][0]).update(damage)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(whole))
    code, err = compare(bad, a)
    assert code == 2 and "not a baseline" in err
