"""Writing files so that a reader never meets half of one, and where to keep what is made once."""

import os
from pathlib import Path, PurePosixPath


def write_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Whole or not at all: written beside its name, then moved there. `mode`: None: that of any new file.

    A link that somebody left at either name is replaced, and what it leads to stays as it is.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            beside.chmod(mode)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def from_root(path: str | Path) -> str:
    """The file's path from the root of the repository that the current folder is in, else from the current folder, with slashes.

    A file that lies elsewhere keeps its whole path.
    """
    here, whole = Path.cwd(), Path(path).resolve()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else whole.as_posix()


def in_repository(file: str) -> bool:
    """Whether what `from_root` gave lies in the repository. A stored run is anybody's, and may name any file."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def cache_folder() -> Path:
    """Where detcheck keeps what it makes once: DETCHECK_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("DETCHECK_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detcheck"
