"""A config file to begin with: what this machine can ask now, and behind # what else could be asked."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from detcheck.check.file import OWN, SHARED, asks, parsed, tool
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.machine import free_memory

log = logging.getLogger(__name__)
GIB = 2**30
LEAST_GIB = 2.0  # free, for torch, the embedded model and its batches


@dataclass(frozen=True)
class Here:
    """What there is here to ask with."""

    transformers: bool
    """whether a model can run in this process"""
    vllm: bool
    gpu: str
    """its name; "": none that torch can use"""
    cores: int
    free_gib: float
    broken: str = ""
    """why torch, which is installed, cannot be imported, and no model can run; "": it can, or is not there"""

    @property
    def samples(self) -> int:
        """Of the embedded model in a minute or so: a GPU computes them together, a core one after the other."""
        return 200 if self.gpu else max(12, min(96, 8 * self.cores // (1 if self.free_gib >= LEAST_GIB else 2)))

    def __str__(self) -> str:
        runs = [name for name, there in (("transformers", self.transformers), ("vLLM", self.vllm)) if there]
        has = f"{self.cores} cores, {self.free_gib:.0f} GiB of free memory, {self.gpu or 'no GPU'}"
        if self.broken:
            return f"{has}; torch is installed and cannot be imported (`detcheck env` says what to do)"
        return f"{has}; {' and '.join(runs) or 'neither transformers nor vLLM'} installed"


def look() -> Here:
    """What is installed is looked up, and only torch is imported: to ask for a GPU."""
    log.info("looking for torch, transformers, vLLM and a GPU")
    there = {name: importlib.util.find_spec(name) is not None for name in ("torch", "transformers", "vllm")}
    gpu = broken = ""
    if there["torch"]:
        try:
            import torch

            gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
        except Exception as error:  # noqa: BLE001  a broken install raises anything
            broken = f"{type(error).__name__}: {error}"
            log.info("torch cannot be imported: %s", broken)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runs = there["torch"] and there["transformers"] and not broken
    return Here(runs, there["vllm"], gpu, cores, free_memory() / GIB, broken)


def text(found: Here) -> str:
    """The file's, for detcheck.toml."""
    runs = "" if found.transformers else "# "
    needs = "" if found.transformers else " Needs pip install 'detcheck[transformers]', which is not here."
    needs = " Needs torch, which cannot be imported here: see `detcheck env`." if found.broken else needs
    place = f'{runs}device = "cuda"\n{runs}engine = "transformers"\n' if found.gpu else ""
    vllm = "It is installed here." if found.vllm else "It is not installed here."
    return f"""\
# What `detcheck check` asks, from this folder or below. Each table under probes is a command of detcheck, and each key one of
# its options: max-tokens = 32 is --max-tokens 32. `detcheck completions --help` lists those of completions.
# Written by `detcheck init` for {found}.

# Above the tables: for all probes that have such an option.
output-dir = "runs"
seed = 0

# One prompt many times, in batches of every kind: always the same tokens and log-probabilities?{needs}
# It asks the small model that is built in, with detcheck's own kernels: a pass shows that the test works here, and says nothing of
# a model of yours. Name yours: a folder, or a hub id.
{runs}[probes.completions]
{runs}# model = "./model"
{runs}# kernels: "batch-invariant" are detcheck's own; "stock" asks the model as it is served today; "both" asks the two, and is
{runs}# inconclusive where stock shows no difference, since then nothing was shown to be sensitive.
{runs}kernels = "batch-invariant"
{place}{runs}samples = {found.samples}
{runs}max-tokens = 32
{runs}# prompt-file = "prompts.jsonl"
{runs}# baseline = "baseline.json"      # that of a run you keep in git: the same as last time?

# One op against the batch and against float64. Your own is op = "package.module:function".
{runs}[probes.kernels]
{runs}op = "rmsnorm"
{runs}batch-sizes = [1, 2, 8]

# One product again and again: does it repeat itself at all?
{runs}[probes.matmul]
{runs}trials = 200

# The same question can be asked several times, under names of your own.
# [probes.in-vllm]                  # {vllm}
# probe = "completions"
# engine = "vllm"
# model = "./model"

# [probes.server]                   # a server that runs already
# probe = "completions"
# base-url = "http://localhost:8000"

# [probes.on-policy]                # RL: do sampler and trainer give the same log-probabilities?
# probe = "logprobs"
# sampler = "vllm"
# trainer = "transformers"

# [probes.answers]                  # completions that another harness collected
# probe = "judge"
# file = "answers.jsonl"
"""


def within(body: str) -> str:
    """The same for pyproject.toml, as [tool.detcheck]."""
    body = re.sub(r"^(# )?\[probes\.", lambda m: f"{m[1] or ''}[tool.detcheck.probes.", body, flags=re.M)
    return body.replace("\noutput-dir", "\n[tool.detcheck]\noutput-dir", 1)


def write(path: Path, found: Here, force: bool) -> None:
    """A file of its own. Raises UsageError where there is one, or where it would hide what pyproject.toml says."""
    if path.name == SHARED:
        raise UsageError(f"{path}: use --pyproject, which adds a table to it and leaves the rest")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already. Edit it, name another with --config, or --force to write over it")
    beside = path.parent / SHARED
    if path.name == OWN and beside.is_file() and asks(beside) and not force:
        raise UsageError(
            f"{beside} has [tool.detcheck] already, and {path} would be read in its place. Edit it, or --force"
        )
    save(path, text(found).encode("utf-8"))


def extend(path: Path, found: Here) -> None:
    """A table [tool.detcheck] at the end of pyproject.toml. Raises UsageError where it cannot be added."""
    if not path.is_file():
        raise UsageError(f"there is no {path} here. Leave --pyproject out, and {OWN} is written")
    if "detcheck" in tool(parsed(path)):
        raise UsageError(f"{path} has [tool.detcheck] already. Edit it there")
    if (own := path.parent / OWN).exists():
        raise UsageError(f"{own} is here, and is read in place of what {path} says. Edit it, or remove it")
    try:
        before = path.read_bytes()
        end = "\r\n" if b"\r\n" in before else "\n"
        after = before.rstrip(b"\r\n") + f"\n\n{within(text(found))}".replace("\n", end).encode("utf-8")
        tomllib.loads(after.decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} takes no table [tool.detcheck] at its end: {error}. Leave --pyproject out") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from None
    save(path, after)


def save(path: Path, content: bytes) -> None:
    """Where it is a link, the file that it leads to. One that is there keeps its mode."""
    whole = path.resolve()
    if path.is_symlink() and not whole.is_relative_to(path.parent.resolve()):
        raise UsageError(
            f"{path} is a link to {whole}, outside of its folder. Remove it, or name that file with --config"
        )
    try:
        write_file(whole, content, whole.stat().st_mode & 0o7777 if whole.exists() else None)
    except OSError as error:
        raise UsageError(f"{path}: cannot write it: {error.strerror}. Name another with --config") from None
