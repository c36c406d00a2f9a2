"""A JSON key that stands twice is refused wherever what others wrote is read: another reader of the file would take the other."""

import json
import struct

import pytest

from detcheck.errors import UsageError
from detcheck.fleet.folder import FleetFolder, is_fleet, read_member
from detcheck.harness.prompts import from_json
from detcheck.models import stored
from detcheck.probes.score.pairs import read as read_pair
from detcheck.storage import baselines
from detcheck.storage.folder import RunFolder
from detcheck.storage.head import read_head

TWICE = '{"prompt": "a", "prompt": "b", "continuation": "c"}'


@pytest.mark.parametrize("read", [from_json, read_pair])
def test_prompts_and_pairs(read):
    assert read(TWICE.replace('"prompt": "b", ', ""), "x, line 1")
    with pytest.raises(UsageError, match="x, line 1: 'prompt' stands twice in one object"):
        read(TWICE, "x, line 1")


def test_messages_with_two_contents():
    with pytest.raises(UsageError, match="'content' stands twice"):
        from_json('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "x, line 1")


def test_run_end_and_a_fleets_lines(tmp_path):
    head = '{"schema_version": "1.0", "probe": "fleet x", "probe": "fleet y", "command": "", "started": "2026-11-24T04:15:00Z"}'
    (tmp_path / "run.json").write_text(head)
    with pytest.raises(UsageError, match="TwiceError: probe"):
        read_head(tmp_path)
    assert not is_fleet(tmp_path)
    (tmp_path / "run.json").write_text(head.replace(', "probe": "fleet y"', ""))
    assert is_fleet(tmp_path)
    (tmp_path / "end.json").write_text('{"interrupted": true, "warnings": [], "interrupted": false}')
    interrupted, (warning,) = RunFolder(tmp_path).read_end()
    assert not interrupted and "cannot be read (TwiceError)" in warning
    (tmp_path / "members.jsonl").write_text(
        '{"number": 0, "name": "a", "name": "b", "missing": "x"}\n{"number": 1, "name": "c", "missing": "x"}\n'
    )
    fleet = FleetFolder(RunFolder(tmp_path))
    assert [member.name for member in fleet._lines("members.jsonl", read_member)] == [
        "c"
    ] and "line 1" in fleet.warnings[0]


def test_a_baseline(tmp_path):
    (tmp_path / "b.json").write_text('{"baseline_version": 1, "baseline_version": 2, "x": ""}')
    with pytest.raises(UsageError, match="TwiceError: baseline_version"):
        baselines.read(tmp_path / "b.json")


def test_a_header_of_safetensors_and_an_index(tmp_path):
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    for names, refused in (("wv", False), ("ww", True)):
        header = "{" + ", ".join(f'"{name}": {entry}' for name in names[: 2 if refused else 1]) + "}"
        file = tmp_path / f"{names}.safetensors"
        file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
        if not refused:
            assert [tensor.name for tensor in stored.tensors_of(file, "m")] == ["w"]
            continue
        with pytest.raises(UsageError, match="TwiceError: w"):
            stored.tensors_of(file, "m")
    (tmp_path / stored.INDEX).write_text('{"weight_map": {"w": "ww.safetensors", "w": "wv.safetensors"}}')
    with pytest.raises(UsageError, match="TwiceError: w"):
        stored.files(tmp_path, "m")
