"""A fleet's run as it is kept: each thing once, readable however its writer ended, and judged again to the same."""

import json
from dataclasses import replace

import pytest
from test_fleet_judge import PAYLOADS, SOUND, STEADY_ODD, A, B

from detcheck import report
from detcheck.errors import FailedError, UsageError
from detcheck.finding import Run
from detcheck.fleet import run as fleet
from detcheck.fleet.folder import FleetFolder, is_fleet
from detcheck.fleet.groups import Recorded
from detcheck.fleet.members import Came, FleetMember, environment_digest, table_digest
from detcheck.fleet.options import check, fleet_spec, probe_spec
from detcheck.fleet.watching import MOST_FETCHED, Watch
from detcheck.records import Condition
from detcheck.storage import baselines
from detcheck.storage.baselines import Settled

SPEC = fleet_spec("completions", {"address": "auto", "worker_timeout": 60.0}, {"model": "m"})


def came(number, table, environment=None, outcomes=lambda: tuple(PAYLOADS.values()), lost=False):
    environment = environment or {"device": "cpu", "detcheck": "1"}
    document = baselines.document(table)

    def fetch():
        if lost:
            raise FailedError("what it observed is lost: its node died")
        return document

    member = FleetMember(
        number, f"worker {number}", table_digest(document), environment_digest(environment), "identical"
    )
    return Came(member, environment, fetch, outcomes)


def kept(folder, *answers, asked=None):
    """A fleet's run, as these members come; and what is said on the way."""
    made = FleetFolder.create(folder, SPEC.probe)
    members = [FleetMember(n, f"worker {n}") for n in range(1, (asked or len(answers)) + 1)]
    made.write_head(SPEC, "detcheck fleet", "2026-11-30T00:00:00Z", members, [])
    head, said = Run(SPEC, "detcheck fleet", "2026-11-30T00:00:00Z", (), path=made.path), []
    found = fleet.collected(head, made, members, (one for one in answers), said.append, [])
    return found, said


def test_what_is_equal_is_stored_once_and_what_differs_with_its_outcomes(tmp_path):
    odd = came(3, STEADY_ODD, {"device": "cpu", "detcheck": "1", "processor": "other"})
    found, said = kept(tmp_path, came(1, SOUND), came(2, SOUND), odd, came(4, SOUND))
    assert found.exit_code == 1 and "worker 3 (cpu, other) differs from the 3 that agree" in found.findings[0].note
    assert [(p.done, p.doing, p.unit) for p in said] == [
        (0, "0 distinct", "members"), (1, "1 distinct", "members"), (2, "1 distinct", "members"), (3, "2 distinct", "members"), (4, "2 distinct", "members"),
    ]  # fmt: skip
    (parting,) = [one for p in said for one in p.found]
    assert parting.sentence.startswith(
        "first divergence: worker 3 against worker 1: model, under alone, row 0, token 2: "
    )
    assert len(list((found.path / "tables").iterdir())) == 2
    assert len((found.path / "environments.jsonl").read_text().splitlines()) == 2
    assert set(FleetFolder(fleet.RunFolder(found.path)).run.outcomes()) == {A.id, B.id}
    again = fleet.load(found.path)
    assert is_fleet(found.path) and again.findings == found.findings and again.warnings == found.warnings
    for format in ("terminal", "md", "html", "json", "junit", "sarif"):
        assert report.render(again, format) == report.render(found, format)


def test_tables_are_baselines_that_can_be_compared(tmp_path):
    from detcheck import runner

    found, _ = kept(tmp_path, came(1, SOUND), came(2, STEADY_ODD))
    a, b = sorted((found.path / "tables").iterdir())
    assert runner.compare(a, b).exit_code == 1


def test_memory_holds_one_table_however_many_come_and_few_outcomes_are_fetched(tmp_path):
    fetched = []

    def outcomes(n):
        return lambda: fetched.append(n) or tuple(PAYLOADS.values())

    def table(n):
        (known,) = SOUND.cases
        name = f"{n:064}"
        conditions = (Settled(Condition("alone", 1, None), (0,), name),)
        return replace(SOUND, cases=(replace(known, outcomes={name: 1}, conditions=conditions, tokens={name: name}),))

    answers = [came(n + 1, table(n // 2), outcomes=outcomes(n + 1)) for n in range(20)]
    made = FleetFolder.create(tmp_path, "fleet completions")
    watch = Watch(made, 20)
    for one in answers:
        watch.take(one)
    assert fetched == [1, 3, 5, 7] and len(fetched) == MOST_FETCHED
    assert len(made.known) == 11 and len(list((made.path / "tables").iterdir())) == 10


def test_a_killed_run_is_judged_on_what_is_written_and_a_torn_line_is_said(tmp_path):
    found, _ = kept(tmp_path, came(1, SOUND), came(2, SOUND), asked=3)
    (found.path / "end.json").unlink()
    with (found.path / "members.jsonl").open("a") as file:
        file.write('{"number": 3, "na')
    again = fleet.load(found.path)
    assert again.exit_code == 3 and "1 of 3 missing: worker 3: it had not answered" in again.findings[0].note
    assert any("was killed" in w for w in again.warnings) and any("line 3 is torn" in w for w in again.warnings)


def test_a_table_that_is_damaged_or_gone_is_no_pass(tmp_path):
    found, _ = kept(tmp_path, came(1, SOUND), came(2, SOUND))
    (table,) = (found.path / "tables").iterdir()
    table.write_text("{}")
    again = fleet.load(found.path)
    assert again.exit_code == 4 and "its table cannot be read" in again.findings[0].note


@pytest.mark.parametrize(
    "line",
    ["[]", "7", "{}", '{"number": "1"}', '{"number": 3, "name": 4, "missing": "x"}', '{"number": 3, "name": "w", "table": "../run", "verdict": "identical"}',
     '{"number": 3, "name": "w", "table": "ab", "verdict": "fine"}', '{"number": 3, "name": "w"}', '{"digest": [], "environment": []}'],
)  # fmt: skip
@pytest.mark.parametrize("file", ["members.jsonl", "environments.jsonl"])
def test_a_line_that_is_none_is_said_and_makes_nobody_pass(tmp_path, file, line):
    found, _ = kept(tmp_path, came(1, SOUND), came(2, SOUND), asked=3)
    with (found.path / file).open("a") as stream:
        stream.write(line + "\n")
    again = fleet.load(found.path)
    assert again.exit_code == 3 and any("is torn" in warning for warning in again.warnings)
    report.render(again, "html")


def test_a_table_that_died_with_its_node_is_a_member_that_is_missing(tmp_path):
    found, _ = kept(tmp_path, came(1, SOUND), came(2, SOUND), came(3, STEADY_ODD, lost=True))
    assert found.exit_code == 3 and "worker 3: what it observed is lost" in found.findings[0].note


@pytest.mark.parametrize(
    "head", [{"probe": "fleet completions"}, {"probe": "fleet nothing"}, {"probe": "fleet completions", "members": [1]}]
)
def test_a_head_that_is_damaged_is_said_in_words(tmp_path, head):
    found, _ = kept(tmp_path, came(1, SOUND), came(2, SOUND))
    path = found.path / "run.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != "members"} | head))
    with pytest.raises(UsageError):
        fleet.load(found.path)


def test_ctrl_c_and_a_full_disk_judge_what_came(tmp_path):
    def interrupted():
        yield came(1, SOUND)
        raise KeyboardInterrupt

    def full():
        yield came(1, SOUND)
        raise OSError(28, "No space left on device")

    for coming, code, said in ((interrupted(), 130, "interrupted"), (full(), 3, "No space left")):
        made = FleetFolder.create(tmp_path, SPEC.probe)
        members = [FleetMember(n, f"worker {n}") for n in (1, 2)]
        made.write_head(SPEC, "c", "2026-11-30T00:00:00Z", members, [])
        run = fleet.collected(
            Run(SPEC, "c", "2026-11-30T00:00:00Z", (), path=made.path), made, members, coming, None, []
        )
        assert run.exit_code == code and any(said in warning for warning in run.warnings)
        assert fleet.load(made.path).exit_code == code


def test_a_member_with_another_detcheck_is_named():
    members = [FleetMember(n, f"worker {n}", "t", "new" if n < 3 else "old") for n in (1, 2, 3)]
    around = {"new": {"detcheck": "0.2.0"}, "old": {"detcheck": "0.1.0"}}
    said = list(fleet.other_versions(Recorded([m.name for m in members], members, {"t": SOUND}.get, around, {})))
    assert said == ["worker 3 has detcheck 0.1.0, and most have 0.2.0: install one version everywhere"]


def test_a_fleets_question_is_the_probes_own_and_can_be_typed_again():
    assert SPEC.command() == "detcheck fleet completions --model m --address auto --worker-timeout 60.0"
    asked = probe_spec(SPEC)
    assert (asked.probe, asked.model, hasattr(asked.options, "address")) == ("completions", "m", False)
    check(fleet_spec("matmul", {}, {}))
    assert probe_spec(fleet_spec("matmul", {}, {})).trials == 1000
