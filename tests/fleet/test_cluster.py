"""A fleet on a real cluster of three nodes, all on this machine: one of them is the odd one, where ops of `by_node` go wrong."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import only_run
from warm import hears_ctrl_c

DOUBLES = Path(__file__).parents[1] / "doubles"
CHEAP = ("--kernels", "stock", "--batch-sizes", "1,4", "--trials", "2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes of a processor each, and a connection to them that stays, so that their processes import torch once."""
    import logging

    import ray
    from ray.cluster_utils import Cluster

    began = tmp_path_factory.mktemp("began") / "began"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(DOUBLES), str(DOUBLES.parents[1])]))
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("FLEET_BEGAN", str(began))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
        made.odd = made.add_node(num_cpus=1, env_vars={"FLEET_NODE": "odd", "PYTHONHASHSEED": "7"})
        made.began = began
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def fleet(cluster, detcheck):
    """(op, more arguments) -> the result, and the report as JSON."""
    cluster.began.unlink(missing_ok=True)

    def call(op, *more):
        result = detcheck("fleet", "kernels", "--op", f"by_node:{op}", *CHEAP, *more)
        return result, json.loads((only_run(Path("runs")) / "report.json").read_text("utf-8"))

    return call


def odd_of(cluster):
    return f"/{cluster.odd.node_id[:8]}"


def test_a_sound_fleet_is_identical_and_its_run_is_shown_again_without_ray(fleet, detcheck, monkeypatch):
    result, report = fleet("innocent")
    assert result.code == 0, result.out + result.err
    (finding,) = report["findings"]
    assert finding["verdict"] == "identical" and (finding["samples"], finding["missing"]) == (3, 0)
    assert "all 3 have the same bits" in finding["note"]
    assert len(list((only_run(Path("runs")) / "tables").iterdir())) == 1
    for heavy in ("ray", "torch"):
        monkeypatch.setitem(sys.modules, heavy, None)
    again = detcheck("report", only_run(Path("runs")), "--format", "json")
    assert again.code == 0 and json.loads(again.out)["findings"] == report["findings"]


def test_the_node_that_gives_other_bits_is_named_with_where_it_parts_and_what_is_different_there(fleet, cluster):
    result, report = fleet("other_bits", "--format", "md")
    assert result.code == 1
    (finding,) = report["findings"]
    assert finding["verdict"] == "divergent" and finding["evidence"]["members"] == {
        "asked": 3,
        "answered": 3,
        "missing": 0,
    }
    most, differs = finding["evidence"]["groups"]
    assert (most["members"], differs["members"]) == (2, 1) and odd_of(cluster) in differs["first"][0]
    assert differs["where"].startswith("under ") and "element" in differs["where"] and "ulp" in differs["where"]
    assert "first divergence: worker" in result.err and odd_of(cluster) in result.err
    assert differs["apart"] == ["PYTHONHASHSEED: 7, elsewhere not set"] and differs["apart"][0] in finding["note"]


def test_a_member_that_raises_is_missing_not_equal(fleet, cluster):
    result, report = fleet("raises")
    assert result.code == 3
    assert report["findings"][0]["missing"] == 1 and "no kernel image is available" in report["findings"][0]["note"]
    assert odd_of(cluster) in report["findings"][0]["note"]


def test_a_member_whose_process_dies_is_missing(fleet, cluster):
    result, report = fleet("dies")
    assert result.code == 3 and report["verdict"] == "inconclusive"
    assert odd_of(cluster) in report["findings"][0]["note"] and "Crashed" in report["findings"][0]["note"]


def test_a_member_that_is_late_is_missing_and_is_ended(fleet, cluster):
    result, report = fleet("waits", "--worker-timeout", "15")
    assert result.code == 3
    assert (
        "it gave no answer within 15 s" in report["findings"][0]["note"]
        and odd_of(cluster) in report["findings"][0]["note"]
    )


def test_members_that_are_not_batch_invariant_are_no_better_together(fleet):
    result, report = fleet("by_batch")
    assert result.code == 1 and report["verdict"] == "batch-variant"
    assert "all 3 have the same bits" in report["findings"][0]["note"]
    assert report["findings"][0]["distinct_bits"] == 1 and "by themselves worker 1" in report["findings"][0]["note"]


def test_one_member_alone_is_no_pass(fleet):
    result, report = fleet("innocent", "--workers", "1")
    assert result.code == 3 and "nothing to compare it with" in report["findings"][0]["note"]


def test_ctrl_c_judges_what_came_and_keeps_it(fleet, cluster, detcheck):
    def press():
        while not cluster.began.exists():
            time.sleep(0.05)
        while sum(len(path.read_text().splitlines()) for path in Path("runs").glob("*/members.jsonl")) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    hears_ctrl_c()
    threading.Thread(target=press, daemon=True).start()  # which waits for what the run does
    result, report = fleet("waits")
    assert result.code == 130 and report["summary"]["interrupted"]
    assert report["findings"][0]["samples"] == 2 and "it had not answered" in report["findings"][0]["note"]
    assert detcheck("report", only_run(Path("runs"))).code == 130


def test_a_node_that_dies_is_missing(fleet, cluster):
    """The last: there are two nodes then."""
    name = odd_of(cluster)

    def kill():
        while not cluster.began.exists():
            time.sleep(0.05)
        cluster.remove_node(cluster.odd, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    result, report = fleet("waits")
    assert result.code == 3 and name in report["findings"][0]["note"] and "NodeDied" in report["findings"][0]["note"]
