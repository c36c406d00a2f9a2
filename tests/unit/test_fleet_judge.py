"""What is made of members' tables: pure, of tables that we wrote."""

from dataclasses import replace

import numpy as np
import pytest

from detcheck.errors import UsageError
from detcheck.fleet import causes, judge
from detcheck.fleet.cluster import look
from detcheck.fleet.describe import describe
from detcheck.fleet.groups import Recorded
from detcheck.fleet.members import Came, FleetMember
from detcheck.fleet.options import Per
from detcheck.fleet.places import Devices, WorkerPlace, beginning, named, shared_out
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition
from detcheck.storage.baselines import Baseline, Known, Settled
from detcheck.verdict import FailOn, Verdict

CASE = Case("completions", "model", "stock", "float32", "0:abc")
A, B = (outcome(np.array(tokens), logprobs=np.float32([-1, -2, -3])) for tokens in ([1, 2, 3], [1, 2, 4]))
LATENT = outcome(np.array([1, 2, 3]), logprobs=np.float32([-1, -2, -3.5]))
PAYLOADS = {o.id: o for o in (A, B, LATENT)}
TOKENS = {A.id: "t1", B.id: "t2", LATENT.id: "t1"}


def known(by_condition, verdict="identical", case=CASE, unsteady=0, batch_size=1, **changes):
    """`by_condition`: name -> outcome."""
    conditions = tuple(Settled(Condition(n, batch_size, None), (0,), o.id) for n, o in by_condition.items())
    there = {o.id: 2 for o in by_condition.values()}
    tokens = {name: TOKENS[name] for name in there}
    return replace(Known(case, verdict, 0, "bits", "token", there, tokens, "", "", conditions, unsteady), **changes)


def table(*cases, digests=None):
    return Baseline("t", "completions", {}, digests or {}, {}, cases)


SOUND = table(known({"alone": A, "batch-8": A}))
ODD = table(known({"alone": A, "batch-8": B}, "batch-variant"))
STEADY_ODD = table(known({"alone": B, "batch-8": B}))


def asked(*tables, environments=(), asked=None, verdicts=()):
    """The findings on members with these tables; None: it is missing."""
    there = {f"{id(t)}": t for t in tables if t is not None}
    members = [
        FleetMember(n, f"worker {n}", str(id(t)), f"e{n}", str(t.cases[0].verdict))
        if t
        else FleetMember(n, f"worker {n}", missing="it died")
        for n, t in enumerate(tables, 1)
    ]
    around = {f"e{n}": one for n, one in enumerate(environments, 1)}
    names = [f"worker {n}" for n in range(1, (asked or len(tables)) + 1)]
    return judge.findings(Recorded(names, members, there.get, around, PAYLOADS), replace(CASE, probe="fleet"))


@pytest.mark.parametrize(
    ("tables", "verdict"),
    [
        ((SOUND, SOUND), "identical"),
        ((SOUND, SOUND, STEADY_ODD), "divergent"),
        ((SOUND, None, STEADY_ODD), "divergent"),
        ((SOUND, None, SOUND), "inconclusive"),
        ((SOUND,), "inconclusive"),
        ((None, None), "failed"),
        ((ODD, ODD), "batch-variant"),
        ((SOUND, ODD), "batch-variant"),
        ((SOUND, table(known({"alone": A}, "inconclusive"))), "inconclusive"),
    ],
)
def test_the_verdict(tables, verdict):
    (finding,) = asked(*tables)
    assert finding.verdict == verdict, finding.note
    assert describe(finding)


def test_what_a_members_run_came_to_counts_where_none_of_its_cases_shows_it():
    """A case of which nothing was observed is in no table."""
    members = [
        FleetMember(n, f"worker {n}", "t", "e", verdict, "1 case was not reached")
        for n, verdict in ((1, "identical"), (2, "inconclusive"))
    ]
    found = judge.findings(Recorded(["worker 1", "worker 2"], members, {"t": SOUND}.get, {}, {}), CASE)
    assert [f.verdict for f in found] == ["identical", "inconclusive"]
    assert found[1].note == "worker 2: by itself inconclusive: 1 case was not reached" and describe(found[1])


def test_a_member_that_was_never_heard_of_is_missing():
    (finding,) = asked(SOUND, SOUND, asked=4)
    assert finding.verdict is Verdict.INCONCLUSIVE and finding.missing == 2
    assert "2 of 4 missing: worker 3: it had not answered; worker 4: it had not answered" in finding.note


def test_the_odd_one_is_named_with_condition_token_and_what_only_it_has():
    around = [
        {
            "packages": {"torch": "2.12" if n == 3 else "2.13"},
            "device": "cuda:0",
            "flags": {"driver": "575", "x": str(n)},
        }
        for n in (1, 2, 3)
    ]
    (finding,) = asked(SOUND, SOUND, STEADY_ODD, environments=around)
    assert finding.note.startswith(
        "worker 3 (cuda:0, 575) differs from the 2 that agree: under alone, row 0, token 2: "
    )
    assert "different there: torch: 2.12, elsewhere 2.13; x: 3, elsewhere 1 or 2" in finding.note
    assert finding.evidence["unlike"] == ["torch", "x"]
    assert (finding.samples, finding.distinct, finding.distinct_bits, finding.mode_count) == (3, 2, 2, 2)


def test_the_larger_side_is_taken_for_right_whoever_came_first():
    (finding,) = asked(STEADY_ODD, SOUND, SOUND)
    assert finding.note.startswith("worker 1 differs from the 2 that agree")
    (finding,) = asked(STEADY_ODD, SOUND)
    assert "neither side is the larger" in finding.note


def test_equal_tokens_with_other_log_probabilities_pass_only_where_tokens_are_what_counts():
    (finding,) = asked(SOUND, SOUND, table(known({"alone": LATENT, "batch-8": LATENT})))
    assert finding.verdict is Verdict.DIVERGENT and finding.latent
    assert [finding.exit_code(f) for f in (FailOn.ANY, FailOn.TOKENS)] == [1, 0]


def test_the_same_outcome_under_other_conditions_is_the_same():
    """A node with more threads, or more memory, is asked more."""
    more = table(known({"alone": A, "batch-8": A, "threads-64": A}))
    (finding,) = asked(SOUND, more, SOUND)
    assert finding.verdict is Verdict.IDENTICAL and len(finding.evidence["groups"]) == 1


def test_members_that_vary_by_themselves_are_not_told_apart_by_chance():
    def server(name, counts):
        return table(known({}, "divergent", outcomes=counts, tokens={o: TOKENS[o] for o in counts}, unsteady=1))

    (finding,) = asked(server("a", {A.id: 5, B.id: 3}), server("b", {A.id: 4, LATENT.id: 4}))
    assert finding.verdict is Verdict.DIVERGENT and finding.evidence["groups"][1]["stands"] == "varies"
    assert "is undetermined" in finding.note and "differs from" not in finding.note.replace(
        "differs from the others is", ""
    )


def test_other_weights_are_named():
    (finding,) = asked(
        table(known({"alone": A}), digests={"model": "a" * 64}), table(known({"alone": B}), digests={"model": "b" * 64})
    )
    assert "SHA-256 of the model: bbbbbbbbbbbb, elsewhere aaaaaaaaaaaa" in finding.note


def test_other_weights_that_give_the_same_are_no_pass():
    (finding,) = asked(*(table(known({"alone": A}), digests={"model": d * 64}) for d in "aab"))
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "aaaaaaaaaaaa on worker 1 and 1 more, bbbbbbbbbbbb on worker 3" in finding.note


@pytest.mark.parametrize(
    "other",
    [
        replace(SOUND, asked={"max_tokens": 3}),
        replace(SOUND, probe="score"),
        table(known({"alone": A, "batch-8": A}, compared="tokens")),
        table(known({"alone": A, "batch-8": A}, unit="character")),
    ],
)
def test_an_answer_to_another_question_is_not_equal(other):
    (finding,) = asked(SOUND, SOUND, other)
    assert finding.verdict is Verdict.INCONCLUSIVE and "worker 3: it " in finding.note, finding.note
    assert finding.evidence["groups"][1]["stands"] == "otherwise"


def test_conditions_that_only_some_met_are_named():
    (finding,) = asked(SOUND, table(known({"alone": A})))
    assert finding.verdict is Verdict.IDENTICAL and finding.evidence["not_tried"] == ["batch-8"]
    assert "conditions that only some members met: batch-8" in str(describe(finding))


def test_a_member_that_varies_once_in_forty_is_not_said_to_differ():
    counts = {A.id: 39, B.id: 1}
    rare = table(known({"alone": A}, "run-variant", outcomes=counts, tokens={o: TOKENS[o] for o in counts}, unsteady=1))
    (finding,) = asked(SOUND, rare)
    assert finding.evidence["groups"][1]["stands"] == "varies" and finding.verdict == "run-variant"


def test_of_two_sides_of_one_size_none_is_what_most_have():
    (finding,) = asked(SOUND, SOUND, STEADY_ODD, STEADY_ODD)
    said = str(describe(finding))
    assert said.count("one of two sides of the same size") == 2 and "what most have" not in said


def test_what_is_not_recorded_is_not_said_to_be_the_same():
    (finding,) = asked(SOUND, SOUND, STEADY_ODD, environments=[{"device": "cpu"}, {"device": "cpu"}])
    assert "the environment of some of them is not recorded" in finding.note and "nothing that" not in finding.note
    assert finding.evidence["groups"][1]["apart"] == []


def test_a_case_that_one_member_does_not_have_is_no_pass():
    second = replace(CASE, input="1:def")
    both = table(known({"alone": A}), known({"alone": A}, case=second))
    found = asked(both, both, table(known({"alone": A})))
    assert [f.verdict for f in found] == ["identical", "inconclusive"]
    assert "worker 3: no sample of it came" in found[1].note


def test_a_table_that_is_lost_is_a_member_that_is_missing():
    members = [
        FleetMember(1, "worker 1", "a", "e", "identical"),
        FleetMember(2, "worker 2", "a", "e", "identical"),
        FleetMember(3, "worker 3", "gone", "e"),
    ]
    fleet = Recorded(["worker 1", "worker 2", "worker 3"], members, {"a": SOUND}.get, {}, {})
    (finding,) = judge.findings(fleet, CASE)
    assert finding.verdict is Verdict.INCONCLUSIVE and "worker 3: its table cannot be read" in finding.note


def test_only_what_parts_the_two_sides_is_named():
    odd, others = [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}], [{"a": "1", "b": "y"}, {"b": "z", "c": "1"}]
    assert causes.apart(odd, others) == ["b: x, elsewhere y or z"]
    assert causes.unlike(odd) == ["a"]


def node(name, host="h", alive=True, **resources):
    return {"NodeID": name * 16, "NodeManagerHostname": host, "Alive": alive, "Resources": resources}


def test_where_workers_are_put():
    nodes = [
        node("a", "one", CPU=8.0),
        node("b", "two", CPU=8.0, GPU=2.0),
        node("c", "three", alive=False, CPU=8.0),
        node("d", "four"),
    ]
    by_device = look(nodes, Per.DEVICE, True)
    assert [(p.name, p.number, p.gpus) for p in by_device.places] == [("node two", 0, 1.0), ("node two", 1, 1.0)]
    assert by_device.left_out == ("node four has no GPU", "node one has no GPU")
    by_node = look(nodes, Per.NODE, True)
    assert [(p.name, p.gpus, p.at_once) for p in by_node.places] == [("node one", 0, 8), ("node two", 1.0, 2)]
    assert by_node.left_out == ("node four offers no processor",)
    assert [p.gpus for p in look(nodes, Per.DEVICE, False).places] == [0, 0]
    assert look([node("a", CPU=1.0), node("b", CPU=1.0)], Per.NODE, False).places[1].name == "node h/bbbbbbbb"
    with pytest.raises(UsageError, match="nobody in this cluster"):
        look(nodes[2:], Per.NODE, False)


def test_workers_are_spread_and_begin_where_there_is_room():
    places = [WorkerPlace("a", "node a", 0, 1, 0, at_once=2), WorkerPlace("b", "node b", 0, 1, 0, at_once=1)]
    members = named(places, 5)
    assert [m.name for m in members] == [f"worker {n} on node {'ab'[(n + 1) % 2]}" for n in range(1, 6)]
    queues = shared_out(members, places)
    assert [len(queue) for queue in queues.values()] == [3, 2]
    assert list(beginning(queues)) == [places[0], places[1], places[0]]


@pytest.mark.parametrize(
    ("count", "had", "missing"),
    [
        (2, ["GPU 0", "GPU 1"], []),
        (2, ["GPU 0", "GPU 0"], [2]),
        (2, ["GPU 0, GPU-aa", "GPU 1, GPU-aa"], [2]),  # CUDA_VISIBLE_DEVICES was not followed
        (2, ["GPU 0", ""], [2]),
        (4, ["GPU 0", "GPU 0", "GPU 1", "GPU 1"], []),
        (3, ["GPU 0", "GPU 0", "GPU 0"], [3]),
    ],
)
def test_a_gpu_that_is_asked_in_the_place_of_another_is_missing_not_equal(count, had, missing):
    places = look([node("a", CPU=1.0, GPU=2.0)], Per.DEVICE, True).places
    assert [p.cpus for p in places] == [0, 0]  # beside each other, however few processors there are
    members = named(places, count)
    devices = Devices(members, places)
    seen = [devices.seen(places[0], Came(replace(m, table="t", gpu=gpu))) for m, gpu in zip(members, had, strict=True)]
    assert [one.member.number for one in seen if one.member.missing] == missing
