"""SIGKILL at moments of every kind, and --resume: all samples, each once, the same outcomes and the same verdict as undisturbed.

`benchmarks/faults.py` does the same with ten thousand samples and fifty kills.
"""

import json
import signal

import pytest
from faults import (
    DETCHECK,
    JUDGING,
    OBSERVING,
    REPORTING,
    SCRIPTED,
    STARTING,
    WRITING,
    Moment,
    digest,
    mapping,
    moments,
    of,
    payloads,
    run,
    seeded,
    strike,
    struck,
)

QUIET = ("--quiet", "--format", "json")
SEED = 21


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(the command, what an undisturbed run of it says, its samples, its outcomes)"""
    command = [*SCRIPTED, "completions", "-n", "120", "--max-tokens", "4", *QUIET]
    folder = tmp_path_factory.mktemp("whole")
    done = run([*command, "--output-dir", str(folder)])
    return command, json.loads(done.stdout), mapping(of(folder)), sorted(payloads(of(folder)))


def test_killed_and_resumed_it_is_as_if_nothing_had_been(whole, tmp_path):
    command, first, there, ids = whole
    planned = [
        Moment(STARTING, "os.rename", r"run\.json$"),
        Moment(WRITING, "os.rename", r"outcomes/\d+\.parquet$"),
        Moment(WRITING, "open", r"observations/\d+\.parquet\.tmp$"),
        Moment(JUDGING, "os.rename", r"end\.json$"),
        Moment(REPORTING, "open", r"report\.md\.tmp$"),
    ]
    hit = struck(command, tmp_path, planned)
    assert not hit.missed and not hit.lost and not hit.tracebacks, hit
    done = run([*SCRIPTED, "completions", "--resume", str(hit.run), *QUIET])
    assert mapping(hit.run) == there and digest(mapping(hit.run)) == digest(there)
    assert sorted(payloads(hit.run)) == ids
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["verdict"] == first["verdict"] == "batch-variant"
    assert report["findings"] == first["findings"] and not report["summary"]["warnings"]


def test_a_sample_that_is_lost_or_there_twice_is_seen(whole, tmp_path):
    """What these tests find with must find it."""
    import pyarrow.parquet

    _, _, there, _ = whole
    key = next(iter(there))
    assert digest({k: v for k, v in there.items() if k != key}) != digest(there) != digest(there | {key: "other"})
    rows = [dict(zip(("input", "condition", "trial", "batch", "slot", "sample"), key, strict=True))]
    rows = [row | {"outcome": "a", "process": 0} for row in rows]
    (tmp_path / "observations").mkdir()
    for n in range(2):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "observations" / f"{n}.parquet")
    with pytest.raises(AssertionError, match="there twice"):
        mapping(tmp_path)


def test_a_moment_strikes_where_it_says(tmp_path):
    """And a process that is over before is no hit."""
    script = tmp_path / "writes.py"
    script.write_text(
        "import os\nfor n in range(3):\n    open(f'{n}.tmp', 'w').close()\n    os.replace(f'{n}.tmp', str(n))\n"
    )
    command = [DETCHECK[0], "-c", f"import os; os.chdir({str(tmp_path)!r}); exec(open('writes.py').read())"]
    assert strike(command, Moment(WRITING, "os.rename", r"^\d$", 2))[0] == -signal.SIGKILL
    assert (tmp_path / "0").exists() and (tmp_path / "1.tmp").exists() and not (tmp_path / "1").exists()
    assert strike(command, Moment(WRITING, "os.rename", r"^\d$", 4))[0] == 0
    assert strike(command, Moment(STARTING, delay_s=0.0))[0] == -signal.SIGKILL


def test_the_moments_of_a_seed_are_the_same_and_of_every_phase():
    counts = {STARTING: 4, OBSERVING: 4, WRITING: 8, JUDGING: 4, REPORTING: 4}
    planned = moments(seeded(SEED), counts, 2.0)
    assert planned == moments(seeded(SEED), counts, 2.0) != moments(seeded(SEED + 1), counts, 2.0)
    assert {phase: sum(m.phase == phase for m in planned) for phase in counts} == counts
    assert [m.phase for m in planned[-8:]] == [JUDGING] * 4 + [REPORTING] * 4
