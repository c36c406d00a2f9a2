"""The real thing on transformers: the embedded model, updated in place by every way, and faults planted on the way."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from detcheck.engines.transformers import update
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.models import amplifier, stream

ASK = ("reload", "--max-tokens", "4", "--trials", "1", "--format", "json", "-q")
TENSOR = "model.layers.3.mlp.up_proj.weight"


def report(result):
    findings = json.loads(result.out)["findings"]
    return findings, [cause["code"] for cause in findings[0]["evidence"]["causes"]]


def copied(folder, change):
    """The embedded model with its tensors changed."""
    shutil.copytree(amplifier.folder(), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_each_way_brings_a_running_model_to_the_bits_of_a_fresh_load(detcheck):
    result = detcheck(*ASK, "--update", "files,pipelined,shared,broadcast", "--bucket-mib", "1")
    assert result.code == 0, result.err
    findings, _ = report(result)
    assert [f["case"]["input"] for f in findings] == ["files", "pipelined", "shared", "broadcast"]
    for finding in findings:
        assert finding["evidence"]["update"]["differ"] == finding["evidence"]["update"]["tensors"] - 2  # of positions
        assert finding["metrics"]["bytes"] == sum(
            t.nbytes for t in load_file(amplifier.folder() / "model.safetensors").values()
        )
        assert finding["metrics"]["bytes_per_s"] > 0


def test_a_tensor_left_behind_is_named(detcheck, monkeypatch):
    real = update.load

    def forgetful(model, coming):
        kept = model.state_dict()[TENSOR].clone()
        return real(model, ([(n, kept if n == TENSOR else t) for n, t in bucket] for bucket in coming))

    monkeypatch.setattr(update, "load", forgetful)
    result = detcheck(*ASK)
    findings, causes = report(result)
    assert (result.code, causes) == (1, ["left"])
    assert f"1 of 113 tensors were not brought up to date: {TENSOR} (the old bits)" in findings[0]["note"]


def test_what_was_made_of_the_old_weights_is_caught_although_all_tensors_are_new(detcheck, monkeypatch):
    """As a compiled graph with constants in it, or a packed copy."""
    real = TransformersEngine.load

    def load(self, longest=0):
        if self._model is None:
            real(self, longest)
            layer = self._model.model.layers[0].mlp.up_proj
            packed = layer.weight.detach().clone()
            layer.forward = lambda x: torch.nn.functional.linear(x, packed)

    monkeypatch.setattr(TransformersEngine, "load", load)
    result = detcheck(*ASK)
    findings, causes = report(result)
    assert (result.code, causes) == (1, ["derived"])
    assert findings[0]["evidence"]["update"]["left_count"] == 0


def test_one_bit_of_one_tensor_and_an_update_that_does_nothing(detcheck, tmp_path, monkeypatch):
    def turn(tensors):
        bits = tensors[TENSOR].view(torch.int32)
        bits[3, 5] ^= 1

    old = copied(tmp_path / "old", turn)
    monkeypatch.setattr(update, "load", lambda model, coming: 0)
    result = detcheck(*ASK, "--old", old)
    findings, causes = report(result)
    assert (result.code, causes) == (1, ["nothing"])
    assert f"(1: {TENSOR})" in findings[0]["note"]
    left = findings[0]["evidence"]["update"]["left"]
    assert [(one["first"], one["last"], one["rows"]) for one in left] == [(3, 3, 1)]


def test_the_same_weights_show_nothing(detcheck):
    result = detcheck(*ASK, "--old", amplifier.folder())
    assert (result.code, report(result)[1]) == (3, ["same_weights"])


def test_a_torn_file_is_refused_before_anything_is_loaded(detcheck, tmp_path):
    new = copied(tmp_path / "new", lambda tensors: None)
    whole = (new / "model.safetensors").read_bytes()
    (new / "model.safetensors").write_bytes(whole[:-1])
    result = detcheck(*ASK, "--model", new)
    assert result.code == 2 and "model.safetensors is torn" in result.err
    other = copied(tmp_path / "other", lambda tensors: tensors.pop(TENSOR))
    result = detcheck(*ASK, "--old", other)
    assert result.code == 2 and TENSOR in result.err


def test_an_update_that_ends_half_way_is_told_by_what_is_served_then(detcheck, monkeypatch):
    """The process that sends ends after two buckets, or before the first."""
    broken = "import sys; from detcheck.models import sender; said = sender.say; counted = iter(range(9)); sender.say = lambda what: said(what) if next(counted) < {} else sys.exit('it broke'); sender.main(sys.argv[1:])"
    for buckets, code, cause in ((2, 1, "failed_torn"), (0, 4, "failed_old_read")):
        monkeypatch.setattr(stream, "START", broken.format(1 + buckets))
        result = detcheck(*ASK, "--update", "shared", "--bucket-mib", "1")
        findings, causes = report(result)
        assert (result.code, causes) == (code, [cause]), findings[0]["note"]
        assert "it broke" in findings[0]["note"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--update", "sleep"), "are vLLM's calls"),
        (("--update", "fax"), "use files, pipelined"),
        (("--update", "files,files"), "given twice"),
        (("--kernels", "both"), "needs no control arm"),
        (("--old", "nowhere"), "no such folder"),
        (("--base-url", "http://127.0.0.1:9"), "--fresh-url"),
        (("--fresh-url", "http://127.0.0.1:9"), "--fresh-url is for servers"),
        (("--bucket-mib", "0"), "at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(detcheck, options, said):
    result = detcheck("reload", *options)
    assert result.code == 2 and said in result.err
