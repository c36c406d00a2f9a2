"""The ops that `detcheck order` is asked about: how each is called, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from detcheck import lookup
from detcheck.errors import UsageError
from detcheck.harness import user_op
from detcheck.hashes import content_hash
from detcheck.probes.order.forms import FORMS, NAMES
from detcheck.spec import Kernels

ALL, PLANTED = "all", "control"


def known() -> list[str]:
    """The bundled ops that say how their order is read, or why it cannot be."""
    from detcheck.op import every

    return [op.name for op in every() if op.order]


def unreadable(name: str) -> bool:
    return name in known() and not isinstance(lookup.find("kernels", name).OP.order, str)


def form_of(op: str, given: str | None) -> str:
    """How the op is called; "" where its order cannot be read."""
    if unreadable(op):
        return ""
    bundled = lookup.find("kernels", op).OP.order if op in known() else None
    form = given or bundled or NAMES.get(op.rpartition(":")[2])
    if form not in FORMS:
        asked = f"--form {given}: there is no such one" if given else f"--op {op}: say with --form how it is called"
        raise UsageError(f"{asked}. It is one of {', '.join(FORMS)}")
    return form


def bundled(name: str, kernels: Kernels) -> Callable[..., object]:
    """A bundled op of these kernels. Raises UsageError where there is none."""
    op = lookup.find("kernels", name).OP
    found = op.stock if kernels is Kernels.STOCK else op.batch_invariant
    if found is None:
        raise UsageError(f"--kernels batch-invariant: {name} has no batch-invariant implementation")
    return found


def theirs(path: str, form: str) -> tuple[Callable[..., object], str]:
    """The user's op, and a digest of its module's source, "" where it has none: a run that is resumed notices another one."""
    loaded = user_op.module(path)
    module, _, name = path.partition(":")
    found = getattr(loaded, name, None)
    if not callable(found):
        raise UsageError(f"--op {path}: {module} has no function {name}")
    source = Path(getattr(loaded, "__file__", None) or "")
    digest = content_hash(source.read_bytes()) if source.is_file() else ""
    over_rows = form == "sum" and module in ("torch", "numpy")
    call = (lambda x: found(x, -1)) if over_rows else found
    return ((lambda *given: call(*(t.numpy() for t in given))) if module == "numpy" else call), digest
