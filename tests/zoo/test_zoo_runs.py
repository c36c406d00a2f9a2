"""Run folders that were cut, doubled, mixed up or told about; comparisons, `check` and log-probabilities."""

import contextlib
import json
import shutil
import time

from scripted import LATENT, OTHER, SAME, Scripted
from zoo import broken, sound, visits

from detcheck.storage import folder


def steady(rows, slot, call):
    return SAME


def by_size(rows, slot, call):
    return OTHER if rows > 2 else SAME


def stored(zoo, answer=steady, *arguments, samples=16, **engine):
    """A run's folder, with a part for each batch."""
    zoo.monkeypatch.setattr(folder, "FLUSH_S", 0.0)
    before = set(zoo.folder.glob("runs/*"))
    scripted = Scripted(answer)
    vars(scripted).update(engine)
    zoo.completions(scripted, *arguments, samples=samples)
    (made,) = set(zoo.folder.glob("runs/*")) - before
    return made


def parts(run, kind="observations"):
    return sorted((run / kind).glob("*.parquet"))


# What a report is made of.


@broken("inconclusive", code=3)
def a_part_is_gone(zoo):
    """A part of the observations was deleted."""
    run = stored(zoo)
    parts(run)[2].unlink()
    return zoo.ask("report", run)


@broken("inconclusive", code=3)
def the_bad_part_is_gone(zoo):
    """The parts that hold what differed were deleted."""
    run = stored(zoo, by_size)
    for part in parts(run):
        if b"batch-2" not in part.read_bytes() and part != parts(run)[0]:
            part.unlink()
    return zoo.ask("report", run)


@broken("inconclusive", code=3)
def a_part_stands_in_for_another(zoo):
    """A part was deleted, and another one is there twice."""
    run = stored(zoo)
    one, other = parts(run)[2:4]
    shutil.copy(one, other)
    return zoo.ask("report", run)


@broken("inconclusive", code=3)
def nothing_is_left(zoo):
    """All observations were deleted, the report of them was not."""
    run = stored(zoo)
    for part in parts(run):
        part.unlink()
    return zoo.ask("report", run)


@broken("divergent")
def outcomes_are_torn(zoo):
    """The file that holds the other outcome is torn, so that one alone can be read."""
    run = stored(zoo, by_size)
    torn = parts(run, "outcomes")[-1]
    torn.write_bytes(torn.read_bytes()[:40])
    return zoo.ask("report", run)


@broken("batch-variant")
def a_report_that_lies(zoo):
    """report.json of a run, and its baseline, were changed to say identical."""
    run = stored(zoo, by_size)
    for name in ("report.json", "baseline.json"):
        file = run / name
        file.write_text(file.read_text("utf-8").replace("batch-variant", "identical"), "utf-8")
    return zoo.ask("report", run)


@broken("usage error", code=2)
def of_a_later_version(zoo):
    """A run of a later version that this one cannot read."""
    run = stored(zoo)
    head = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(head | {"schema_version": "99.0"}), "utf-8")
    return zoo.ask("report", run)


@broken("inconclusive", code=3)
def head_of_another_run(zoo):
    """run.json is that of a run with more samples."""
    run, longer = stored(zoo), stored(zoo, samples=40)
    shutil.copy(longer / "run.json", run / "run.json")
    return zoo.ask("report", run)


@broken("inconclusive", code=130)
def interrupted(zoo):
    """A run was interrupted, and its report is asked for later."""

    def answer(rows, slot, call):
        if call > 5:
            raise KeyboardInterrupt
        return SAME

    return zoo.ask("report", stored(zoo, answer))


@broken("inconclusive", code=130)
def interrupted_now(zoo):
    """A run is interrupted while all that came was equal."""

    def answer(rows, slot, call):
        if call > 5:
            raise KeyboardInterrupt
        return SAME

    return zoo.completions(Scripted(answer), samples=16)


@broken("inconclusive", code=3)
def died(zoo):
    """The engine dies in the middle, and all that came was equal."""

    def answer(rows, slot, call):
        if call > 5:
            raise RuntimeError("device lost")
        return SAME

    return zoo.completions(Scripted(answer), samples=16)


# Two writers, clocks, going on.


@broken("usage error", code=2)
def two_writers(zoo):
    """A run is gone on with while another process writes it."""
    run = stored(zoo)
    with folder.RunFolder(run).locked():
        return zoo.ask("completions", "--resume", run)


@broken("batch-variant")
def clock_is_set_back(zoo):
    """The clock is set back by an hour again and again, and batches of three rows differ."""
    with unsteady_clock(zoo):
        return zoo.completions(Scripted(lambda rows, slot, call: OTHER if rows == 3 else SAME), samples=16)


@contextlib.contextmanager
def unsteady_clock(zoo):
    """Each look at the clock finds it an hour earlier."""
    looks = iter(range(10**9))
    with zoo.monkeypatch.context() as patch:
        real = time.time
        patch.setattr(time, "time", lambda: real() - 3600.0 * next(looks))
        patch.setattr(time, "monotonic", lambda: -3600.0 * next(looks))
        patch.setattr(time, "perf_counter", lambda: -3600.0 * next(looks))
        yield


@broken("usage error", code=2, says="digest of model")
def resumed_with_other_weights(zoo):
    """A run is gone on with after its weights changed."""
    run = half(zoo)
    return gone_on(zoo, run, digests={"model": "9" * 64, "tokenizer": "1" * 64})


@broken("usage error", code=2)
def resumed_with_other_tokens(zoo):
    """A run is gone on with by a tokenizer that gives other ids."""
    return gone_on(zoo, half(zoo), encode=lambda text: tuple(b + 1 for b in text.encode()))


@broken("divergent")
def resumed_and_changed(zoo):
    """A run is gone on with in another process, which gives other bits."""
    return gone_on(zoo, half(zoo), answer=lambda rows, slot, call: LATENT)


def half(zoo, samples=16):
    def answer(rows, slot, call):
        if call > 5:
            raise KeyboardInterrupt
        return SAME

    return stored(zoo, answer, samples=samples)


def gone_on(zoo, run, answer=steady, **engine):
    scripted = Scripted(answer)
    vars(scripted).update(engine)
    with zoo.engine(scripted):
        return zoo.ask("completions", "--resume", run)


# Comparisons.


@broken("divergent")
def baseline_of_yesterday(zoo):
    """All samples are equal, but not to those of the baseline."""
    run = stored(zoo)
    return zoo.completions(Scripted(lambda rows, slot, call: OTHER), "--baseline", run / "baseline.json", samples=16)


@broken("inconclusive", code=3)
def baseline_of_other_weights(zoo):
    """The baseline is of other weights, and gave the same answers."""
    run = stored(zoo, digests={"model": "9" * 64, "tokenizer": "1" * 64})
    return zoo.completions(Scripted(steady), "--baseline", run / "baseline.json", samples=16)


@broken("inconclusive", code=3)
def baseline_of_another_prompt(zoo):
    """The two runs have the same answers to two prompts."""
    runs = stored(zoo), stored(zoo, steady, "--prompt", "and me")
    return zoo.ask("compare", *runs)


@broken("usage error", code=2)
def baseline_without_cases(zoo):
    """All cases were taken out of the baseline."""
    return with_baseline(zoo, lambda found: found | {"cases": []})


@broken("usage error", code=2)
def baseline_without_outcomes(zoo):
    """All outcomes were taken out of the baseline, so that nothing in it differs."""
    emptied = {"outcomes": {}, "conditions": []}
    return with_baseline(zoo, lambda found: found | {"cases": [c | emptied for c in found["cases"]]})


def with_baseline(zoo, change):
    file = stored(zoo) / "baseline.json"
    file.write_text(json.dumps(change(json.loads(file.read_text("utf-8")))), "utf-8")
    return zoo.completions(Scripted(steady), "--baseline", file, samples=16)


@broken("divergent", says="latent")
def latent_against_then(zoo):
    """The same tokens as then, with log-probabilities of other bits."""
    return zoo.ask("compare", stored(zoo), stored(zoo, lambda rows, slot, call: LATENT))


@broken("inconclusive", code=3)
def compared_with_less(zoo):
    """The second run lost half of its samples."""
    runs = stored(zoo), stored(zoo)
    for part in parts(runs[1])[5:]:
        part.unlink()
    return zoo.ask("compare", *runs)


@broken("usage error", code=2, says="are the same run")
def compared_with_itself(zoo):
    """A run is compared with itself."""
    run = stored(zoo)
    return zoo.ask("compare", run, run.parent / ".." / "runs" / run.name)


# check


KERNELS = '[probes.{name}]\nprobe = "kernels"\nop = "zoo_ops:{op}"\nbatch-sizes = [1, 2, 8]\n{more}\n'


def check(zoo, *probes, top=""):
    text = top + "".join(
        probe if isinstance(probe, str) else KERNELS.format(**{"more": ""} | probe) for probe in probes
    )
    (zoo.folder / "detcheck.toml").write_text(text, "utf-8")
    return zoo.ask("check")


SOUND = {"name": "sound", "op": "one_row_at_a_time"}


@broken("usage error", code=2)
def all_commented_out(zoo):
    """Every probe of detcheck.toml is commented out."""
    return check(zoo, '# [probes.kernels]\n# op = "zoo_ops:payloads"\n')


@broken("usage error", code=2, says="nearest")
def mistyped(zoo):
    """An option is mistyped, in one of two probes."""
    return check(zoo, SOUND, {"name": "other", "op": "payloads", "more": "trails = 3"})


@broken("batch-variant")
def never_beside_any(zoo):
    """One probe may fail (fail-on never), the other may not, and both do."""
    lenient = {"name": "lenient", "op": "payloads", "more": 'fail-on = "never"'}
    return check(zoo, lenient, {"name": "strict", "op": "tuned_by_the_batch"})


@broken("failed", code=4)
def cannot_run(zoo):
    """One of two probes cannot run, the other passes."""
    return check(zoo, SOUND, '[probes.raises]\nprobe = "kernels"\nop = "guilty:raises"\nbatch-sizes = [1, 2]\n')


@broken("inconclusive", code=3)
def one_in_doubt(zoo):
    """One of two probes compared nothing, the other passes."""
    (zoo.folder / "one.jsonl").write_text('{"tokens": [1, 2], "batch_size": 1}\n', "utf-8")
    return check(zoo, SOUND, '[probes.answers]\nprobe = "judge"\nfile = "one.jsonl"\n')


@broken("batch-variant")
def an_old_report(zoo):
    """The folder of reports holds a check that passed, of before the op was changed."""
    check(zoo, SOUND)
    return check(zoo, {"name": "sound", "op": "tuned_by_the_batch"})


# Sound ones.


@sound
def moved(zoo):
    """A run's folder was renamed and moved."""
    run = stored(zoo)
    there = zoo.folder / "archive" / "last week's run"
    there.parent.mkdir()
    run.rename(there)
    return zoo.ask("report", there)


@sound
def a_part_twice(zoo):
    """A part of the observations is there twice, and is counted once."""
    run = stored(zoo)
    shutil.copy(parts(run)[-1], parts(run)[-1].with_name("00099.parquet"))
    answer = zoo.ask("report", run)
    assert "all 16 samples" in answer.said and "counted once" in answer.said
    return answer


@sound
def resumed(zoo):
    """A run that was interrupted, and gone on with."""
    return gone_on(zoo, half(zoo))


@sound
def two_equal_runs(zoo):
    """Two runs that gave the same, also in batches that differ from each other."""
    return zoo.ask("compare", stored(zoo, by_size), stored(zoo, by_size))


@sound
def unsteady(zoo):
    """The clock is set back by an hour again and again."""
    with unsteady_clock(zoo):
        return zoo.completions(Scripted(steady), samples=16)


@sound
def two_sound_probes(zoo):
    """A check of two sound probes."""
    return check(zoo, SOUND, {"name": "tiles", "op": "padded_to_a_tile"})


@sound
def same_baseline(zoo):
    """A run gives what its baseline holds."""
    return zoo.completions(Scripted(steady), "--baseline", stored(zoo) / "baseline.json", samples=16)


test_subject = visits(globals())
