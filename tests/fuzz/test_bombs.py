"""A few bytes that stand for very many fill no memory: they are refused by what the file says of its sizes."""

import io
import resource
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.probes.logprobs import files
from detcheck.storage.folder import RunFolder
from detcheck.storage.tables import MOST_IN_A_ROW

SMALL = 16 << 20  # bytes that a refusal may take


@pytest.fixture
def frugal():
    """What is done inside may not take much more memory than there is now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + SMALL, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def giant(tmp_path_factory):
    """One row, whose list has more numbers than any completion, and all are 0."""
    path = tmp_path_factory.mktemp("bombs") / "giant.parquet"
    zeros = pyarrow.array(np.zeros(MOST_IN_A_ROW + 1, np.int8), pyarrow.int8())
    row = pyarrow.ListArray.from_arrays(pyarrow.array([0, len(zeros)], pyarrow.int32()), zeros)
    columns = {"tokens": row, "logprobs": row, "text": pyarrow.array(["a"])}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="ZSTD", write_statistics=False)
    assert path.stat().st_size < 100_000
    return path


def test_a_row_of_many_millions_is_refused(giant, frugal):
    with pytest.raises(UsageError, match="1 of its rows hold 16777217 values"):
        runner.judge_file(giant)
    with pytest.raises(UsageError, match="1 of its rows hold 16777217 values"):
        files.read(giant, ("sampler",))


def test_a_part_of_a_run_that_holds_one_is_torn(giant, tmp_path, frugal):
    for kind in ("observations", "outcomes"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "00000.parquet").write_bytes(giant.read_bytes())
    folder = RunFolder(tmp_path)
    assert (folder.outcomes(), list(folder.observations())) == ({}, [])
    assert all("1 of its rows hold 16777217 values" in warning for warning in folder.warnings) and folder.warnings


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, frugal):
    path = tmp_path / "a.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 29,)})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("logprobs.npy", "w", force_zip64=True) as file,
    ):
        file.write(head.getvalue())
        for _ in range(1 << 7):
            file.write(bytes(1 << 14))
    raw = path.read_bytes()
    there, said = (len(head.getvalue()) + (1 << 21)).to_bytes(4, "little"), (1 << 31).to_bytes(4, "little")
    path.write_bytes(raw.replace(there, said))  # its own directory says so, as that of a real one would
    with pytest.raises(UsageError, match="it would unpack to 2048 MiB"):
        files.read(path, ("sampler",))
