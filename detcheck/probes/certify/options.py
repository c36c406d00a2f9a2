"""The knobs of `detcheck certify`, and what can be known before anything is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import ClassVar

from detcheck import lookup
from detcheck.dtypes import full_dtype
from detcheck.errors import FailedError, UsageError
from detcheck.harness import user_op
from detcheck.options import OP, knob, words
from detcheck.probes.certify import sources
from detcheck.spec import Spec

ALL = "all"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # torch's names -> Triton's
EXAMPLES = (
    "detcheck certify --op matmul --target sm_90  # a bundled kernel, compiled for an H100",
    "detcheck certify my_package/kernels.py --target all  # all kernels that your file declares, for every target",
)


@dataclass(frozen=True)
class Options:
    """A Triton kernel, compiled for a GPU that need not be there, and read: can the batch reach the order in which it adds?

    Exit codes: 0 certified, 1 refuted, 3 undecided.
    """

    files: tuple[str, ...] = knob(
        (), help="Python files: every kernel that they declare, instead of --op.", argument=True, repeated=True, metavar="[FILE]...",
    )  # fmt: skip
    op: str = knob(
        ALL, help="A bundled op, all, or your own Triton kernel: package.module:kernel.", panel=OP,
        values=lambda: (ALL, *certifiable()),
    )  # fmt: skip
    target: tuple[str, ...] = knob(
        TARGETS, help=f"{', '.join(TARGETS)}, several with commas, or all.", panel=OP, metavar="NAMES",
        read=lambda text: TARGETS if text == ALL else words(text), values=(*TARGETS, ALL),
    )  # fmt: skip

    allow_none: bool = knob(False, help="Pass where none of the files declares a kernel.", panel=OP)

    SHARED: ClassVar[dict[str, dict[str, str]]] = {
        "dtype": {"panel": OP, "help": "Like bf16,float32. Default: those that the kernel declares."},
        "fail_on": {},
    }
    DEFAULTS: ClassVar[dict[str, object]] = {"trials": 1}


def check(spec: Spec) -> None:
    """What can be known before anything is loaded. Raises UsageError, FailedError without Triton."""
    own: Options = spec.options
    if own.files and own.op != ALL:
        raise UsageError(f"--op {own.op}: files say what to certify too; give one of the two")
    if own.allow_none and not own.files:
        raise UsageError("--allow-none is about files; name some")
    if own.files:
        sources.read(own.files, own.allow_none)
    elif ":" in own.op:
        user_op.check_path(own.op)
    elif own.op != ALL and own.op not in certifiable():
        raise UsageError(
            f"--op {own.op}: has no Triton kernel here; there are: {', '.join(certifiable())}, {ALL}, or your own as package.module:kernel"
        )
    for target in own.target:
        if target not in TARGETS:
            raise UsageError(f"--target {target}: use {', '.join(TARGETS)} or {ALL}")
    dtypes(spec)
    if importlib.util.find_spec("triton") is None:
        raise FailedError(
            "certify compiles Triton kernels, and there is no triton here. It is made for Linux: pip install triton (no GPU is needed)"
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UsageError("TRITON_INTERPRET=1 turns kernels into Python that cannot be compiled. Unset it")


def dtypes(spec: Spec) -> tuple[str, ...] | None:
    """Triton's names; None: those of each kernel's signature."""
    if spec.dtype is None:
        return None
    found = []
    for word in spec.dtype.split(","):
        full = full_dtype(word.strip())
        if full not in DTYPES:
            raise UsageError(f"--dtype {word}: certify knows {', '.join(DTYPES)}")
        found.append(DTYPES[full])
    return tuple(dict.fromkeys(found))


def certifiable() -> list[str]:
    """Bundled ops that have Triton kernels."""
    return [name for name in lookup.names("kernels") if lookup.find("kernels", name).OP.triton]
