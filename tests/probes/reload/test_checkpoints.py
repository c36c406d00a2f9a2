"""Weights to begin with, made of those to end with; and files that are no good, which are refused in words."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from detcheck.errors import FailedError, UsageError
from detcheck.models import stream
from detcheck.models.perturbed import make, turned
from detcheck.models.stored import INDEX, SINGLE, stored

FLOATS = (
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
)


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_finite_number_becomes_another_finite_one_and_the_rest_stays(dtype):
    """All numbers that there are."""
    kind = torch.int16 if dtype.itemsize == 2 else torch.uint8
    bits = torch.arange(1 << 8 * dtype.itemsize).to(kind)
    made = turned(bits.view(dtype))
    before, after = bits.view(dtype).double(), made.double()
    finite = before.isfinite()
    assert torch.equal(finite, after.isfinite())
    assert (made.view(kind)[finite] != bits[finite]).all() and torch.equal(made.view(kind)[~finite], bits[~finite])


def test_numbers_of_four_bits_are_turned_too():
    pairs = torch.arange(256).to(torch.uint8)
    assert torch.equal(turned(pairs.view(torch.float4_e2m1fn_x2)).view(torch.uint8), pairs ^ 1)


def written(path, entry):
    """A safetensors file with one tensor of four bytes, whose header says that of it."""
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


SOUND = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def test_a_sound_file_is_read(tmp_path):
    written(tmp_path / SINGLE, SOUND)
    (one,) = stored(tmp_path, "--model new")
    assert (one.name, one.dtype, one.shape, one.nbytes) == ("w", "F32", (1,), 4)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "data_offsets": [0, 4]},
        SOUND | {"dtype": 5},
        SOUND | {"shape": ["x"]},
        SOUND | {"shape": 1},
        SOUND | {"data_offsets": ["x", "y"]},
        SOUND | {"data_offsets": [4]},
        SOUND | {"data_offsets": [8, 4]},
        [],
    ],
)
def test_a_header_that_is_no_good_is_refused_in_words(tmp_path, entry):
    written(tmp_path / SINGLE, entry)
    with pytest.raises(UsageError, match=r"--model new: model.safetensors is torn or no safetensors file"):
        stored(tmp_path, "--model new")


@pytest.mark.parametrize("files", [{"a": 5}, {"a": 5, "b": "x"}, {"a": ["x"]}, ["x"], None])
def test_an_index_that_names_no_files_is_refused_in_words(tmp_path, files):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": files}))
    with pytest.raises(UsageError, match=r"--model new: model.safetensors.index.json cannot be read"):
        stored(tmp_path, "--model new")


def test_integers_that_are_weights_are_turned_and_indices_stay(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir(), old.mkdir()
    tensors = {
        "up.qweight": torch.randint(-9, 9, (256, 256), dtype=torch.int32),
        "up.weight": torch.randint(-128, 127, (4, 4), dtype=torch.int8),
        "up.g_idx": torch.arange(256, dtype=torch.int32),
        "experts_scales": torch.full((256, 256), 127, dtype=torch.uint8),
        "norm.weight": torch.ones(4),
    }
    save_file(tensors, new / SINGLE)
    assert make(new, old) == ("experts_scales",)
    made = load_file(old / SINGLE)
    assert {name for name in made if torch.equal(made[name], tensors[name])} == {"up.g_idx", "experts_scales"}
    assert torch.equal(made["up.qweight"], tensors["up.qweight"] ^ 1)


def test_a_sender_that_is_killed_while_its_last_bucket_is_taken_is_said_to_be(tmp_path, monkeypatch):
    """What is left unsent to it is not what is said."""
    written(tmp_path / SINGLE, SOUND)
    killed = "import os; from detcheck.models import sender; sender.taken = lambda: os.kill(os.getpid(), 9); sender.main(sys.argv[1:])"
    monkeypatch.setattr(stream, "START", f"import sys; {killed}")
    with pytest.raises(FailedError, match="ended by signal 9"), stream.opened("shared", tmp_path, 1 << 20) as coming:
        for _ in coming:
            time.sleep(1)  # until it is gone


def test_a_folder_of_which_engines_read_different_files_is_refused(tmp_path):
    for name in (SINGLE, "part.safetensors"):
        written(tmp_path / name, SOUND)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "part.safetensors"}}))
    with pytest.raises(UsageError, match="it has both"):
        stored(tmp_path, "--model new")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": SINGLE}}))
    assert len(stored(tmp_path, "--model new")) == 1


def test_shared_blocks_have_no_names_once_both_sides_have_them(tmp_path, monkeypatch):
    """So nothing of them stays where the process that takes them is killed."""
    written(tmp_path / SINGLE, SOUND)
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(stream, "SHARED_MEMORY", str(rooms))
    with stream.opened("shared", tmp_path, 1 << 20) as coming:
        assert not list(rooms.iterdir())
        assert [(name, tensor.tolist()) for bucket in coming for name, tensor in bucket] == [("w", [0.0])]
    assert not list(rooms.iterdir())


def test_a_dtype_that_is_not_sent_is_refused_before_anything_is_loaded(detcheck, tmp_path):
    written(tmp_path / SINGLE, {"dtype": "U32", "shape": [1], "data_offsets": [0, 4]})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    result = detcheck("reload", "--model", tmp_path, "--update", "files,shared", "-q")
    assert result.code == 2 and "w is of dtype U32, which --update shared does not send" in result.err


def test_old_weights_that_do_not_fit_on_the_disk_are_said_in_words(tmp_path):
    """As a full disk does it: files may be no larger than 64 KiB, which safetensors tells in an error of its own kind."""
    resource = pytest.importorskip("resource", reason="file sizes are limited on POSIX alone")
    folder, target = tmp_path / "new", tmp_path / "old"
    folder.mkdir(), target.mkdir()
    save_file({"weight": torch.ones(1 << 16)}, folder / SINGLE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(
            FailedError, match=r"no room for weights to begin with in .*Give other weights with --old, or set TMPDIR"
        ):
            make(folder, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
