"""What is said of an update, on engines whose leaks we wrote."""

import json

import pytest
from updated import MIXED, NEW, OLD, ScriptedStack, updated

from detcheck.judge.conditions import judge
from detcheck.probes.reload import judge as probe
from detcheck.probes.reload.describe import describe
from detcheck.probes.reload.options import Options
from detcheck.probes.reload.session import Reload
from detcheck.spec import Spec


def asked(stack, upto=None, skip=(), **options):
    """(the finding, its causes). `upto`: steps that are run; `skip`: some that are not."""
    spec = Spec("reload", Options(engine="vllm", **options))
    session = Reload(spec, serving=stack)
    observations, outcomes = [], {}
    for step in session.subject.schedule.steps[:upto]:
        if step.index not in skip:
            seen, made = session.observe(step)
            observations += seen
            outcomes |= {o.id: o for o in made}
    cases = [case for case, _ in session.subject.cases]
    finding = judge(cases, session.subject.schedule, observations, outcomes, by=probe.findings)[0]
    describe(finding)
    json.dumps(finding.evidence)
    return finding, [cause["code"] for cause in finding.evidence["causes"]]


def failing(to):
    def how(engine, way):
        updated(engine, way, to)
        raise RuntimeError("the file is torn")

    return how


def dying(engine, way):
    engine.dead = True
    raise FailedOnceError("its process ended by signal SIGKILL")


class FailedOnceError(Exception):
    pass


def lagging(engine, way):
    """Its parameters are new, and what it computes with is not."""
    engine.weights = dict(NEW)
    return 1 << 20, 0.5


def test_a_sound_update_is_identical_and_its_speed_is_said():
    finding, causes = asked(ScriptedStack())
    assert (finding.verdict, causes) == ("identical", ["same"])
    assert finding.metrics == {"bytes": 1 << 20, "seconds": 0.5, "bytes_per_s": 1 << 21}
    assert "updated 1 MiB in 0.5 s, 2 MiB/s" in describe(finding)[0].lines
    assert finding.samples == 8 and not finding.missing


@pytest.mark.parametrize(
    ("how", "verdict", "cause", "said"),
    [
        (lambda engine, way: (0, 0.1), "divergent", "nothing", "nothing was updated"),
        (lambda engine, way: updated(engine, way, MIXED), "divergent", "left", "1 of 2 tensors were not brought up to date: b (the old bits)"),
        (lambda engine, way: updated(engine, way, {"a": 2, "b": 3}), "divergent", "left", "b (neither the old bits nor the new)"),
        (lagging, "divergent", "derived_old", "although all 2 tensors that could be read have the new bits"),
        (failing(OLD), "failed", "failed_old_read", "the old weights still serve"),
        (failing(MIXED), "divergent", "failed_torn", "1 of 2 tensors are new already"),
        (failing(NEW), "divergent", "failed_new", "yet the engine serves the new weights"),
        (dying, "failed", "no_more", "SIGKILL"),
    ],
)  # fmt: skip
def test_every_leak_is_caught_and_named(how, verdict, cause, said):
    finding, causes = asked(ScriptedStack(how))
    assert (finding.verdict, causes[0]) == (verdict, cause)
    assert said in finding.note


@pytest.mark.parametrize(
    ("how", "verdict", "cause"),
    [
        (None, "identical", "same_unread"),
        (lambda engine, way: (0, 0.1), "divergent", "nothing_unread"),
        (lambda engine, way: updated(engine, way, {"a": 2, "b": 3}), "divergent", "unlike_unread"),
        (failing(OLD), "failed", "failed_old"),
        (failing(MIXED), "divergent", "failed_torn_unread"),
    ],
)
def test_an_engine_that_does_not_say_what_it_holds_is_judged_by_what_it_gives(how, verdict, cause):
    finding, causes = asked(ScriptedStack(how, readable=False))
    assert (finding.verdict, causes[0]) == (verdict, cause)


def test_a_tensor_that_can_be_read_no_more_is_no_pass():
    def hiding(engine, way):
        took = updated(engine, way)
        del engine.weights["b"]  # it serves all the same
        return took

    finding, causes = asked(ScriptedStack(hiding))
    assert (finding.verdict, causes) == ("inconclusive", ["gone"])
    assert "1 tensors could be read before the update and in a fresh load, and not after it (b)" in finding.note
    assert finding.detail.gone_count == 1 and not finding.detail.unread_count


def test_a_large_tensor_that_is_the_same_in_old_and_new_weights_is_no_pass():
    finding, causes = asked(ScriptedStack(alike=("a.scales",)))
    assert (finding.verdict, causes) == ("inconclusive", ["alike"])
    assert "would pass (a.scales)" in finding.note


def test_a_prefix_cache_of_the_old_weights_is_caught_where_it_is_not_emptied():
    finding, causes = asked(ScriptedStack(), keep_cache=True)
    assert (finding.verdict, causes) == ("divergent", ["cache"])
    assert finding.evidence["after"]["updated"]["as old"] == 4
    assert finding.evidence["after"]["emptied"]["as fresh"] == 4
    assert asked(ScriptedStack(cache=False), keep_cache=True)[0].verdict == "identical"


def test_an_update_that_shows_nothing_is_no_pass():
    """Weights that give the same completions, a cache that was never warm, a call to sleep that is ignored."""
    assert asked(ScriptedStack(sensitive=False))[1] == ["not_sensitive"]
    finding, causes = asked(ScriptedStack(), update=("sleep",))
    assert (finding.verdict, causes) == ("inconclusive", ["ignored"])
    spec = Spec("reload", Options(engine="vllm"), trials=1)
    session = Reload(spec, serving=ScriptedStack())
    seen = [session.observe(step) for step in session.subject.schedule.steps]
    outcomes = {o.id: o for _, made in seen for o in made}
    cases = [case for case, _ in session.subject.cases]
    (found,) = judge(cases, session.subject.schedule, [o for s, _ in seen for o in s], outcomes, by=probe.findings)
    assert (found.verdict, found.evidence["causes"][0]["code"]) == ("inconclusive", "cache_cold")


def test_a_tensor_that_no_completion_shows_is_caught_all_the_same():
    finding, causes = asked(ScriptedStack(lambda e, w: updated(e, w, MIXED), sensitive=False))
    assert (finding.verdict, causes) == ("divergent", ["left", "left_silent"])


def test_a_run_that_was_cut_short_is_judged_on_what_came():
    for upto in (3, 8, 9):  # before the update, before it was asked, and in between
        finding, causes = asked(ScriptedStack(), upto=upto)
        assert (finding.verdict, causes[-1]) == ("inconclusive", "stopped"), upto


def test_a_run_that_is_resumed_does_the_update_again():
    """Steps that are stored are not observed: the engine is brought to where they left it."""
    stack = ScriptedStack()
    finding, _ = asked(stack, skip=range(4, 9))
    assert len(stack.engines) == 2 and stack.engines[1].weights == NEW
    assert finding.verdict == "inconclusive"  # of these alone


def test_an_engine_that_does_not_repeat_itself_says_nothing_of_an_update():
    finding, causes = asked(ScriptedStack(cache=False, noise=1))
    assert (finding.verdict, causes) == ("run-variant", ["unsteady"])
