"""What was asked: validated once, stored verbatim, and written as the command line that asks the same again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar

from detcheck import lookup
from detcheck.dtypes import DTYPES, SHORT_DTYPES
from detcheck.options import MODEL, SCHEDULE, VERDICT, flag, knob, knob_of, numbers, shown
from detcheck.verdict import FailOn


class Kernels(StrEnum):
    """Whose kernels run: the stack's own, detcheck's, both in turn, or the engine's own batch-invariant mode."""

    STOCK = "stock"
    BATCH_INVARIANT = "batch-invariant"
    BOTH = "both"
    ENGINE = "engine"


@dataclass(frozen=True)
class Spec:
    """A field's name is its option's name, so a spec is a command."""

    probe: str
    """name of the probe, which is its command; "fleet matmul" of one that a fleet is asked"""
    options: object
    """the probe's own: the frozen dataclass `Options` in its folder. `SHARED` there names which of those below its command has (with another
    help, if need be), and `DEFAULTS` what they are unless told"""
    model: str | None = knob(None, help="Hub id, folder or .gguf. Default: the embedded amplifier.", panel=MODEL)
    kernels: Kernels = knob(
        Kernels.STOCK, help="Whose run: stock, batch-invariant, both; engine: vLLM's own.", panel=MODEL, metavar="NAME"
    )
    dtype: str | None = knob(
        None, help="float32, bf16 ... Default: the model's own.", panel=MODEL, values=(*DTYPES, *SHORT_DTYPES)
    )
    """torch's name"""
    device: str = knob("auto", help="auto, cpu or cuda.", panel=MODEL, values=("auto", "cpu", "cuda"))
    seed: int = knob(0, help="Seed for filler tokens and their places.", panel=SCHEDULE)
    """of everything detcheck makes up"""
    trials: int = knob(2, help="Repeats of every condition.", panel=SCHEDULE)
    batch_sizes: tuple[int, ...] | None = knob(
        None, help="Like 1,8,64. Default: the thresholds.", panel=SCHEDULE,
        read=numbers("1,8,64", 1, "whole numbers of rows from 1 up"),
    )  # fmt: skip
    """rows; None: as many thresholds as the samples pay for"""
    fail_on: FailOn = knob(
        FailOn.ANY, help="Which divergence exits with 1: any bit, tokens only, never.", panel=VERDICT
    )
    fail_fast: bool = knob(False, help="Stop at the first divergence.", panel=VERDICT)

    @property
    def subject(self) -> str:
        """What is asked about, as far as it is known before anything is opened: an op, else a model, else a server."""
        servers = getattr(self.options, "base_url", ())
        return getattr(self.options, "op", None) or self.model or (servers[0] if servers else "amplifier")

    @property
    def embedded(self) -> bool:
        """Whether it runs the model that is built in, as nothing else is named."""
        named = any(getattr(self.options, name, None) for name in ("op", "base_url", "file", "run"))
        return "model" in getattr(self.options, "SHARED", ()) and self.model is None and not named

    def flat(self) -> dict[str, object]:
        """All knobs by name, shared ones and the probe's, as JSON values."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("probe", "options")}
        own = {f.name: getattr(self.options, f.name) for f in fields(self.options)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in (shared | own).items()}

    def command(self) -> str:
        """The command line that asks the same again. Options left at their default are left out."""
        said = ["detcheck", *self.probe.split()]
        defaults = Spec(self.probe, type(self.options)(), **getattr(self.options, "DEFAULTS", {})).flat()
        knobs = {f.name: made for one in (self, self.options) for f in fields(one) if (made := knob_of(f))}
        arguments = [
            v for name, made in knobs.items() if made.argument and (v := getattr(self.options, name)) is not None
        ]
        taken = getattr(self.options, "FROM_RUN", ()) if arguments else ()
        said += (str(word) for one in arguments for word in (one if isinstance(one, tuple) else (one,)))
        for name, value in self.flat().items():
            if name not in knobs or knobs[name].argument or value == defaults[name] or name in taken:
                continue
            if value is True:
                said.append(flag(name))
            elif knobs[name].repeated:
                said += [word for one in value for word in (flag(name), one)]
            else:
                said += [flag(name), shown(value)]
        return " ".join(map(quote, said))


# Of the commands that run nothing.


# The format of a file of completions; AUTO: its keys tell.
InputFormat = StrEnum(
    "InputFormat", {"AUTO": "auto"} | {n.upper(): n.replace("_", "-") for n in lookup.names("storage/inputs")}
)


@dataclass(frozen=True)
class Judging:
    """What `detcheck judge` is asked."""

    file: str = knob("", help="Completions: JSONL, JSON, CSV or parquet (see docs/runs.md).", argument=True)
    other: str | None = knob(
        None, help="Another system's answers to the same requests: is each answer the same?", argument=True
    )
    input_format: InputFormat = knob(
        InputFormat.AUTO, metavar="NAME", panel=VERDICT,
        help=f"Whose format it is: {', '.join(InputFormat)}. auto: its keys tell.",
    )  # fmt: skip
    allow_unseen_batch: bool = knob(False, help="Accept a pass without batch sizes.", panel=VERDICT)

    SHARED: ClassVar[dict[str, dict[str, str]]] = {"fail_on": {}}


@dataclass(frozen=True)
class Comparing:
    """What `detcheck compare` is asked."""

    a: str = knob("", help="A run's folder, or the baseline.json of one.", argument=True)
    b: str = knob("", help="The run that may have changed.", argument=True)

    SHARED: ClassVar[dict[str, dict[str, str]]] = {"fail_on": {}}


def quote(word: str) -> str:
    """The word as a POSIX shell reads it, on one line and without controls: what cannot be printed is in bash's $'...'."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else shell_escape(ord(c)) for c in escaped) + "'"


def shell_escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of the command line that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"
