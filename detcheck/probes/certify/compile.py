"""Triton kernels compiled without a GPU, in every form in which a launch could ask for them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import tempfile
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from detcheck.hashes import content_hash
from detcheck.op import Signature
from detcheck.reason import Reason

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
SHARED = {
    "sm_80": 166912,
    "sm_90": 232448,
    "sm_100": 232448,
    "gfx942": 65536,
}  # bytes a block may have (CUDA guide, CDNA 3 ISA)
DIVISIBLE = [["tt.divisibility", 16]]
TRIED = (1, 2, 7, 16, 33, 64, 128, 1024, 4096)  # values of a batch argument that heuristics are asked about
# Set for every compilation, whatever the environment says, since they change bits: and recorded.
FLAGS = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Form:
    """One way in which a launch specialises the kernel."""

    label: str
    types: Mapping[str, str]
    constexprs: Mapping[str, object]
    divisible: frozenset[str]
    options: Mapping[str, object]
    variant: str = ""
    """which of several kernels, where the signature gives several values of what does not follow the batch"""
    chosen: str = ""
    """what the launcher or the autotuner chose by the batch, or by time"""


@dataclass(frozen=True)
class Built:
    """A form, compiled."""

    form: Form
    ttir: str
    shared_bytes: int
    binary: bytes
    assembly: str
    """AMD's; NVIDIA's is in the binary"""

    @functools.cached_property
    def digest(self) -> str:
        return content_hash(self.binary)


@dataclass(frozen=True)
class Wrapped:
    """What decorators around a kernel choose at launch."""

    kernel: Any
    configs: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    heuristics: Mapping[str, Any] = field(default_factory=dict)


def unwrap(kernel: Any) -> Wrapped:
    """The jitted function inside autotune and heuristics."""
    from triton.runtime.autotuner import Autotuner, Heuristics

    configs, keys, heuristics = (), (), {}
    while isinstance(kernel, Autotuner | Heuristics):
        if isinstance(kernel, Autotuner):
            configs, keys = tuple(kernel.configs), tuple(kernel.keys)
        else:
            heuristics = {**heuristics, **kernel.values}
        kernel = kernel.fn
    return Wrapped(kernel, configs, keys, heuristics)


def forms(wrapped: Wrapped, signature: Signature, dtype: str) -> Iterator[Form]:
    """Every specialisation class of the batch's arguments and of alignment, for everything that is chosen at launch.

    An integer is a constant where it is 1, and marked where 16 divides it, unless the kernel says do_not_specialize; a pointer is
    marked where it is aligned to 16 bytes. Each argument is varied by itself, and all together.
    """
    parameters = {p.name: p for p in wrapped.kernel.params}
    types = {name: kind.replace("T", dtype) if kind == "*T" else kind for name, kind in signature.arguments.items()}
    pointers = {name for name, kind in types.items() if kind.startswith(("*", "tensordesc"))}
    integers = {name for name, kind in types.items() if re.fullmatch(r"[iu]\d+", kind) and kind != "u1"}
    free = {n for n in integers & set(signature.batch) if not parameters[n].do_not_specialize}
    loose = {n for n in pointers - set(signature.aligned) if not parameters[n].do_not_specialize_on_alignment}
    usual = {n for n in (pointers | integers) - free if not getattr(parameters[n], "do_not_specialize", False)}
    usual -= {n for n in pointers if parameters[n].do_not_specialize_on_alignment}
    ones = {n for n in free if not parameters[n].annotation_type}
    classes: list[tuple[str, set[str], set[str]]] = [("any values", usual, set())]
    classes += [(f"16 divides {n}", usual | {n}, set()) for n in sorted(free)]
    classes += [(f"{n} = 1", usual, {n}) for n in sorted(ones)]
    if len(free) > 1:
        classes += [("16 divides all of the batch's", usual | free, set()), ("all of the batch's are 1", usual, ones)]
    classes += [(f"{n} unaligned", usual - {n}, set()) for n in sorted(loose)]
    if len(loose) > 1:
        classes += [("all unaligned", usual - loose, set())]
    for variant, chosen, constexprs, options in choices(wrapped, signature):
        for label, divisible, constant in classes:
            yield Form(
                f"{chosen}, {label}" if chosen else label,
                {n: kind for n, kind in types.items() if n not in constant},
                {**constexprs, **dict.fromkeys(constant, 1)},
                frozenset(divisible),
                options,
                variant,
                chosen,
            )


def choices(wrapped: Wrapped, signature: Signature) -> Iterator[tuple[str, str, dict[str, object], dict[str, object]]]:
    """(variant, what was chosen, constexprs, options) of every launch that the launcher, the autotuner or a heuristic may make.

    Raises CannotAskError.
    """
    given = [
        (n, v if isinstance(v, tuple) else (v,)) for n, v in (*signature.constexprs.items(), *signature.options.items())
    ]
    for config, values in itertools.product(wrapped.configs or (None,), itertools.product(*(v for _, v in given))):
        all_ = dict(zip((n for n, _ in given), values, strict=True))
        several = {n: all_[n] for n, v in given if len(v) > 1}
        variant = {n: v for n, v in several.items() if n not in signature.batch}
        chosen = {n: v for n, v in several.items() if n in signature.batch}
        if config is not None:
            tuned = config.kwargs | {n: getattr(config, n) for n in ("num_warps", "num_stages", "num_ctas")}
            all_ |= tuned
            chosen |= tuned if len(wrapped.configs) > 1 else {}
        rules = heuristic_values(wrapped, signature, all_)[0]
        for rule in rules:
            whole = all_ | rule
            constexprs = {n: v for n, v in whole.items() if n in wrapped.kernel.arg_names}
            options = {n: v for n, v in whole.items() if n not in wrapped.kernel.arg_names}
            yield named(variant), named(chosen | (rule if len(rules) > 1 else {})), constexprs, options


def named(values: Mapping[str, object]) -> str:
    return ", ".join(f"{n}={v}" for n, v in values.items())


class CannotAskError(Exception):
    """A heuristic needs more than numbers to answer."""

    def __init__(self, why: Reason) -> None:
        super().__init__(why)
        self.why = why


class Watched(dict[str, object]):
    """Arguments that remember which of them were looked at."""

    def __init__(self, given: Mapping[str, object]) -> None:
        super().__init__(given)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:
        self.seen.add(name)
        return super().get(name, default)

    def items(self) -> ItemsView[str, object]:
        self.seen |= set(self)
        return super().items()

    def values(self) -> ValuesView[object]:
        self.seen |= set(self)
        return super().values()


def heuristic_values(
    wrapped: Wrapped, signature: Signature, chosen: Mapping[str, object]
) -> tuple[list[dict[str, object]], dict[str, set[str]]]:
    """What the heuristics give for batches of different sizes, each result once; and which arguments of the batch each looks at.

    Raises CannotAskError.
    """
    found: list[dict[str, object]] = []
    looked: dict[str, set[str]] = {}
    for size in TRIED if wrapped.heuristics else (1,):
        given = {n: size if n in signature.batch else 1024 for n in signature.arguments} | dict(chosen)
        made: dict[str, object] = {}
        for name, rule in wrapped.heuristics.items():  # in Triton's order: each sees what those before it gave
            watched = Watched(given | made)
            try:
                made[name] = rule(watched)
            except Exception as error:  # it is foreign and may raise anything
                why = Reason("heuristic_unasked", {"name": name, "error": type(error).__name__, "text": str(error)})
                raise CannotAskError(why) from error
            looked.setdefault(name, set()).update(watched.seen & set(signature.batch))
        if made not in found:
            found.append(made)
    return found, looked


def build(wrapped: Wrapped, forms: Sequence[Form], target: str, lines: bool = False) -> list[Built]:
    """`lines`: with the lines of source in the intermediate code, and so in the binary. Raises whatever Triton dies of."""
    with settings(lines), ThreadPoolExecutor(os.cpu_count()) as pool:  # Triton lets go of Python's lock
        return list(pool.map(lambda form: _build(wrapped, form, target), forms))


def _build(wrapped: Wrapped, form: Form, target: str) -> Built:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = wrapped.kernel
    names = list(kernel.arg_names)
    signature = {n: form.types.get(n, "constexpr") for n in names}
    constants = {(names.index(n),): v for n, v in form.constexprs.items() if n in names}
    # In one order, since Triton's cache goes by their text, and a set has another order in every process.
    attributes = {(i,): DIVISIBLE for i, n in enumerate(names) if n in form.divisible and n in form.types}
    options = FLAGS | dict(form.options)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
    binary = made.asm.get("cubin") or made.asm["hsaco"]
    return Built(form, made.asm["ttir"], int(made.metadata.shared), binary, made.asm.get("amdgcn", ""))


@contextlib.contextmanager
def settings(lines: bool) -> Iterator[None]:
    """Binaries without lines of source do not change with a comment. The default of fusion is set since Triton warns otherwise.

    Triton's cache goes by the text of a kernel, not by its file, so it could name the lines of another copy: they are made again.
    """
    with tempfile.TemporaryDirectory(prefix="detcheck-") as folder:
        wanted = {"TRITON_DISABLE_LINE_INFO": str(int(not lines)), "TRITON_DEFAULT_FP_FUSION": "1"}
        wanted |= {"TRITON_CACHE_DIR": folder} if lines else {}
        before = {n: os.environ.get(n) for n in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def digests(built: Sequence[Built]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Variant of the kernel -> digest of a binary -> the forms that give it."""
    made: dict[str, dict[str, tuple[str, ...]]] = {}
    for each in built:
        of = made.setdefault(each.form.variant, {})
        of[each.digest] = (*of.get(each.digest, ()), each.form.label)
    return made
