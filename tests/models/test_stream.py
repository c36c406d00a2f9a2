"""Tensors on their way: every way gives the bytes of the files, and what is torn is said."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from detcheck.errors import DetcheckError, UsageError
from detcheck.models import perturbed
from detcheck.models.held import held
from detcheck.models.stored import buckets, refuse_unlike, stored
from detcheck.models.stream import Way, opened


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {f"layer.{n}.weight": torch.randn(n + 1, 7, generator=generator) for n in range(9)}
    made |= {"half": torch.randn(5, 3, generator=generator).bfloat16(), "ids": torch.arange(11)}
    return made | {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 4), "flags": torch.tensor([True, False])}


@pytest.fixture
def folder(tmp_path):
    """In two files, with an index."""
    made = tensors()
    names = sorted(made)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held_there in parts.items():
        save_file({n: made[n] for n in held_there}, tmp_path / file)
    index = {"weight_map": {n: file for file, held_there in parts.items() for n in held_there}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "consolidated.safetensors").write_bytes(b"another form of the same, which the index does not name")
    return tmp_path


@pytest.mark.parametrize(
    ("way", "bucket_bytes"),
    [
        (Way.FILES, 1),
        (Way.FILES, 1 << 20),
        (Way.PIPELINED, 1),
        (Way.PIPELINED, 200),
        (Way.SHARED, 60),
        (Way.SHARED, 1 << 20),
        (Way.BROADCAST, 60),
    ],
)
def test_every_way_gives_the_bytes_of_the_files(folder, way, bucket_bytes):
    with opened(way, folder, bucket_bytes) as coming:
        found = {name: tensor.clone() for bucket in coming for name, tensor in bucket}
    wanted = tensors()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_a_bucket_holds_what_fits(folder):
    cut = list(buckets(stored(folder, "it"), 200))
    assert [t for bucket in cut for t in bucket] == stored(folder, "it")
    assert all(len(bucket) == 1 or sum(t.nbytes for t in bucket) <= 200 for bucket in cut) and len(cut) > 3


def test_a_torn_checkpoint_is_told_by_its_headers(folder):
    file = folder / "model-2.safetensors"
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for torn in (
        whole[:-1],
        whole + b"x",
        whole[: 8 + length // 2],
        whole[:4],
        b"",
        struct.pack("<Q", 2**60) + whole[8:],
    ):
        file.write_bytes(torn)
        with pytest.raises(UsageError, match=r"model-2\.safetensors is torn"):
            stored(folder, "it")
    file.unlink()
    with pytest.raises(UsageError, match="is not there"):
        stored(folder, "it")


def test_two_models_are_not_taken_for_one(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_file(tensors() | {"half": torch.randn(5, 4).bfloat16()}, other / "model.safetensors")
    with pytest.raises(UsageError, match=r"half is BF16 \[5, 3\] in the old weights and BF16 \[5, 4\]"):
        refuse_unlike(stored(folder, "it"), stored(other, "it"), "it")
    refuse_unlike(stored(folder, "it"), stored(folder, "it"), "it")


def test_a_way_that_breaks_is_said(folder, monkeypatch):
    from detcheck.models import stream

    monkeypatch.setattr(stream, "START", "import sys; sys.exit('no room')")
    with (
        pytest.raises(DetcheckError, match="ended with exit code 1 before all were sent: no room"),
        opened("shared", folder, 100) as coming,
    ):
        list(coming)


def test_made_weights_differ_in_every_tensor_of_floats_and_in_one_bit_a_number(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("old")
    perturbed.make(folder, target)
    with opened(Way.FILES, target, 1 << 20) as coming:
        made = dict(pair for bucket in coming for pair in bucket)
    wanted = tensors()
    assert made.keys() == wanted.keys()
    for name, tensor in wanted.items():
        kind = {2: torch.int16, 4: torch.int32}.get(tensor.element_size())
        if tensor.is_floating_point():
            assert ((made[name].view(kind) ^ tensor.view(kind)) == 1).all(), name
        else:
            assert torch.equal(made[name], tensor)


def test_rows_that_differ_are_found():
    one = torch.zeros(6, 4)
    other = one.clone()
    other[2, 3] = -0.0
    before, after = (held([("w", t)])["w"] for t in (one, other))
    assert before.unlike(after).tolist() == [False, False, True, False, False, False]
    assert held([("w", one.bfloat16())])["w"].unlike(before).all()
    assert held([("gone", None), ("away", torch.empty(2, 2, device="meta"))]) == {"gone": None, "away": None}
