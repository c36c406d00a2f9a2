"""What `detcheck check` is asked on the command line: the questions themselves stand in the config file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detcheck.options import VERDICT, knob


@dataclass(frozen=True)
class Checking:
    """The rest is in the file."""

    names: tuple[str, ...] = knob(
        (), help="Of the file's probes, those to ask. Default: all.", argument=True, repeated=True, metavar="NAME"
    )
    config: Path | None = knob(
        None, help="The file that asks. Default: the nearest, from here upward.", panel=VERDICT, metavar="FILE"
    )
    output_dir: Path | None = knob(None, help="Where the report folder is made. Default: the file's.", panel=VERDICT)
    fail_fast: bool = knob(False, help="Ask no more after the first probe that exits with 1.", panel=VERDICT)


@dataclass(frozen=True)
class Starting:
    """What `detcheck init` is asked."""

    config: Path = knob(Path("detcheck.toml"), help="The file to write.", panel=VERDICT, metavar="FILE")
    pyproject: bool = knob(False, help="Add [tool.detcheck] to pyproject.toml instead.", panel=VERDICT)
    force: bool = knob(False, help="Write over the file that is there.", panel=VERDICT)


# Examples of their help pages.
CHECKED = (
    "detcheck check  # all that the nearest detcheck.toml or pyproject.toml lists",
    "detcheck check kernels --config gpu.toml --format junit > detcheck.xml  # one probe of that file",
)
BEGUN = (
    "detcheck init  # writes detcheck.toml; then: detcheck check",
    "detcheck init --pyproject  # adds [tool.detcheck] to pyproject.toml",
)
