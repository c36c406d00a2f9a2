"""A fleet's folder, read again after somebody changed it: nothing of that makes members equal that were not, or passes over one."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from test_fleet_judge import SOUND, STEADY_ODD

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.fleet import run, worker
from detcheck.fleet.folder import FleetFolder
from detcheck.fleet.members import Came, FleetMember, environment_digest, table_digest
from detcheck.fleet.options import fleet_spec
from detcheck.storage import baselines

NAMES = ["worker 1 on node a", "worker 2 on node b", "worker 3 on node c"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three members of which one differs."""
    made = FleetFolder.create(tmp_path_factory.mktemp("runs"), "fleet completions")
    spec = fleet_spec("completions", {}, {})
    made.write_head(
        spec, "detcheck", "2026-11-24T04:15:00Z", [FleetMember(n, name) for n, name in enumerate(NAMES, 1)], []
    )
    for n, table in enumerate((SOUND, SOUND, STEADY_ODD), 1):
        document, around = baselines.document(table), {"device": f"cuda {n}"}
        member = FleetMember(n, NAMES[n - 1], table_digest(document), environment_digest(around), "identical")
        made.add(Came(member, around), None if member.table in made.known else document)
    (made.path / "end.json").write_text('{"interrupted": false, "warnings": []}')
    return made.path


@pytest.fixture
def again(written, tmp_path):
    """(what somebody does to the folder) -> the run, read again."""

    def read(change):
        copy = tmp_path / "copy"
        shutil.copytree(written, copy)
        change(copy)
        return run.load(copy)

    return read


def lines(folder, file="members.jsonl"):
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def write(folder, found, file="members.jsonl"):
    (folder / file).write_text("".join(json.dumps(one) + "\n" for one in found))


def test_an_untouched_one_says_what_it_said(again):
    found = again(lambda folder: None)
    assert (found.verdict, found.warnings) == ("divergent", ()) and found.findings[0].samples == 3


def test_a_table_that_is_not_what_it_is_named_by_is_a_member_that_is_missing(again):
    def swap(folder):
        names = [one["table"][:16] for one in lines(folder)]
        shutil.copy(folder / f"tables/{names[0]}.json", folder / f"tables/{names[2]}.json")

    found = again(swap)
    assert found.verdict == "inconclusive" and found.findings[0].missing == 1
    assert "not what it is named by" in found.warnings[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda odd, sound: [odd, sound | {"number": 3, "name": NAMES[2]}], "several results of it"),
        (lambda odd, sound: [sound | {"number": 3}], "has the name of another"),
        (lambda odd, sound: [sound | {"number": 4}], "nobody was asked as number 4"),
    ],
)
def test_a_result_that_is_not_the_members_own_is_not_counted(again, change, said):
    def edit(folder):
        *sound, odd = lines(folder)
        write(folder, [*sound, *change(odd, sound[0])])

    found = again(edit)
    assert found.verdict == "inconclusive" and found.findings[0].missing == 1
    assert any(said in warning for warning in found.warnings), found.warnings


def test_a_fleet_of_nobody_is_no_run(again):
    def empty(folder):
        head = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(head | {"members": []}))

    with pytest.raises(UsageError, match="names no members"):
        again(empty)


def test_a_folder_in_the_place_of_the_members_is_said(again):
    def replace_it(folder):
        (folder / "members.jsonl").unlink()
        (folder / "members.jsonl").mkdir()

    found = again(replace_it)
    assert found.verdict == "failed" and "members.jsonl is no file, and is not read" in found.warnings


def test_environments_that_are_gone_are_said(again):
    found = again(lambda folder: (folder / "environments.jsonl").unlink())
    assert found.verdict == "divergent" and "is not recorded" in found.findings[0].note
    assert found.warnings[0].startswith("the environment of worker 1 on node a, ")


def test_the_warnings_of_members_are_shown_once_with_their_names(again):
    def warn(folder):
        first, second, third = lines(folder)
        write(folder, [first | {"warnings": ["slow disk"]}, second | {"warnings": ["slow disk"]}, third])

    assert again(warn).warnings == (f"{NAMES[0]}, {NAMES[1]}: slow disk",)


def test_where_a_run_is_needed_it_is_said_what_a_fleets_folder_is(written):
    with pytest.raises(UsageError, match=r"is the folder of a fleet's run.*tables"):
        runner.load(written)


def test_what_a_killed_worker_left_is_removed_and_what_is_in_use_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, others = tmp_path / "detcheck-fleet-left", tmp_path / "detcheck-fleet-others"
    for folder in (left, others):
        (folder / "run").mkdir(parents=True)
    (left / "lock").touch()
    with worker.temporary() as used:
        worker.sweep()
        assert not left.exists() and others.exists() and Path(used).is_dir()
    assert not Path(used).exists()
