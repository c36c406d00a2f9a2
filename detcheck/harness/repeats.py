"""`detcheck.assert_deterministic`: does the same call give the same bits each time, whatever it returns?"""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from types import GeneratorType
from typing import Any

import numpy as np

from detcheck.bits import floats_of, furthest, patterns
from detcheck.hashes import content_hash
from detcheck.text import article
from detcheck.verdict import Verdict

TRIALS = 10
FLOATS = {"float16", "bfloat16", "float32", "float64"}  # whose distances are known
PLAIN = {"str", "bytes", "int", "bool", "float", "complex", "None"}  # whose `repr` has all of it
AROUND = 20  # characters of a text shown before and after the place where it differs


@dataclass(frozen=True)
class Returned:
    """One thing of all that a call returned: a tensor, an array, a text, a number."""

    path: str
    """where it is, as Python writes it: "[0]", ".logits", "['loss']" """
    kind: str
    """its type, with dtype and shape where it has them"""
    data: bytes
    dtype: str = ""
    """of an array's elements, torch's name"""
    shape: tuple[int, ...] = ()
    compared: bool = True
    """False: it says how the rest is arranged, or that there is nothing"""


@dataclass(frozen=True)
class Repeated:
    """What was seen of a function that was called again and again."""

    name: str
    verdict: Verdict
    """identical, run-variant, or inconclusive where there was nothing to compare"""
    note: str
    """what, where, why, and what to do; "" where it is identical"""
    trials: int
    max_ulp: float | None = None
    """largest difference in the first part that differs; None: it is not one of numbers"""
    max_abs: float | None = None


def assert_deterministic(fn: Callable[..., object], *arguments: Any, trials: int = TRIALS, **keywords: Any) -> None:
    """Raises AssertionError unless `fn(*arguments, **keywords)` returns the same bits in each of `trials` calls.

    It may return tensors, numpy arrays, text, bytes, numbers, and tuples, lists, dicts and dataclasses of these. Bytes are compared, so
    -0.0 is not 0.0, and a NaN equals itself. Tensors and arrays among the arguments are copied for each call. Nothing is seeded. Raises
    TypeError for a result of another type, and ValueError for fewer than two trials.
    """
    seen = repeat(fn, arguments, keywords, trials)
    if seen.verdict is not Verdict.IDENTICAL:
        raise AssertionError(seen.note)


def repeat(
    fn: Callable[..., object], arguments: Sequence[object], keywords: Mapping[str, object], trials: int = TRIALS
) -> Repeated:
    """What `assert_deterministic` asks, answered without raising AssertionError."""
    if trials < 2:
        raise ValueError(f"assert_deterministic needs at least 2 trials; got {trials}")
    name = getattr(fn, "__name__", None) or type(fn).__name__
    before, results, first, other = generators(), Counter[str](), [], None
    for trial in range(trials):
        made = fn(*(own(a) for a in arguments), **{key: own(a) for key, a in keywords.items()})
        parts = list(parts_of(made, "", name))
        results[content_hash(*(text.encode() + b"\0" + p.data for p in parts for text in (p.path + p.kind,)))] += 1
        first = first or parts
        if other is None and parts != first:
            other = trial, parts
    if other is None:
        if any(p.compared and p.data for p in first):
            return Repeated(name, Verdict.IDENTICAL, "", trials)
        note = f"{name} returned nothing that could be compared, so nothing is known of it. Return what it computes"
        return Repeated(name, Verdict.INCONCLUSIVE, note, trials)
    where, far = difference(first, other[1])
    common = results.most_common(1)[0][1]
    drawn = [kind for kind, state in generators().items() if before.get(kind, state) != state]
    note = (
        f"{name} is not deterministic: call {other[0]} returned other bits than call 0. {where}\n"
        f"{trials} calls gave {len(results)} different results; the most common came in {common} of them.\n{advice(name, drawn)}"
    )
    return Repeated(name, Verdict.RUN_VARIANT, note, trials, *far)


def advice(name: str, drawn: Sequence[str]) -> str:
    if drawn:
        whose = " and ".join(drawn)
        return f"It drew from the random numbers of {whose}. What to do: seed them inside {name}, or give it a generator of its own."
    return (
        "What to do: look for atomic additions, an autotuner that picks another kernel, memory that was never written, a state that is "
        "kept between calls, the order of a set, or the clock. With torch.use_deterministic_algorithms(True) torch names its own such ops."
    )


def generators() -> dict[str, object]:
    """The states of global random generators; torch's where it is loaded."""
    state = np.random.get_state()
    found: dict[str, object] = {"Python": random.getstate(), "numpy": (state[1].tobytes(), state[2:])}
    if torch := sys.modules.get("torch"):
        found["torch"] = torch.get_rng_state().numpy().tobytes()
    return found


def own(value: Any) -> Any:
    """The same, with tensors and arrays of its own: a function may write into its arguments."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if is_tensor(value):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in (list, tuple):
        return type(value)(own(v) for v in value)
    return {key: own(v) for key, v in value.items()} if type(value) is dict else value


def is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def parts_of(value: Any, path: str, name: str) -> Iterator[Returned]:
    """All that a call returned, in order. Raises TypeError for what has no bits that are known."""
    kind = type(value).__name__
    if is_tensor(value):
        yield tensor(value, path)
    elif isinstance(value, np.ma.MaskedArray):
        yield from parts_of(np.ma.getdata(value), f"{path}.data", name)
        yield from parts_of(np.ma.getmaskarray(value), f"{path}.mask", name)
    elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        array = np.ascontiguousarray(value)
        yield Returned(path, f"{array.dtype} array {value.shape}", array.tobytes(), str(array.dtype), value.shape)
    elif isinstance(value, str):
        yield Returned(path, "str", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes | bytearray):
        yield Returned(path, "bytes", bytes(value))
    elif isinstance(value, float):
        yield Returned(path, "float", struct.pack("<d", value), "float64")
    elif isinstance(value, complex):
        yield Returned(path, "complex", struct.pack("<dd", value.real, value.imag))
    elif isinstance(value, int):
        yield Returned(path, kind, str(int(value)).encode())
    elif value is None:
        yield Returned(path, "None", b"", compared=False)
    elif isinstance(value, Mapping):
        yield Returned(path, f"{kind} of {list(value)}", b"", compared=False)
        for key, one in value.items():
            yield from parts_of(one, f"{path}[{key!r}]", name)
    elif isinstance(value, Set):
        yield Returned(path, kind, repr(sorted(whole(one, path, name) for one in value)).encode())
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        yield Returned(path, f"{kind} of {len(value)}", b"", compared=False)
        for n, one in enumerate(value):
            yield from parts_of(one, f"{path}[{n}]", name)
    elif is_dataclass(value) and not isinstance(value, type):
        yield Returned(path, kind, b"", compared=False)
        for one in fields(value):
            yield from parts_of(getattr(value, one.name), f"{path}.{one.name}", name)
    else:
        hint = "; collect it into a list first" if isinstance(value, GeneratorType) else ""
        raise TypeError(
            f"{name} returned {article(kind)}{f' at {path}' if path else ''}, whose bits are not known{hint}. Return tensors, arrays, "
            "text, numbers, or tuples, lists, dicts and dataclasses of them"
        )


def whole(value: Any, path: str, name: str) -> str:
    """An element of a set, which has no place of its own: all of it, where its `repr` would round or leave out."""
    parts = list(parts_of(value, path, name))
    return repr(value) if {p.kind for p in parts} <= PLAIN else repr([(p.path, p.kind, p.data) for p in parts])


def tensor(value: Any, path: str) -> Returned:
    import torch

    dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
    dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
    flat = dense.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return Returned(path, f"{dtype} tensor {shape}", flat.view(torch.uint8).numpy().tobytes(), dtype, shape)


def difference(first: Sequence[Returned], other: Sequence[Returned]) -> tuple[str, tuple[float | None, float | None]]:
    """Where two results part first, in words; and how far apart that part is: ulp, absolute."""
    for a, b in zip(first, other, strict=False):
        where = f"result{a.path}"
        if (a.path, a.kind) != (b.path, b.kind):
            kinds = f"{where}: {article(a.kind)} in the one, and result{b.path} {article(b.kind)} in the other."
            return kinds, (None, None)
        if a.data != b.data:
            return f"{where}: {inside(a, b)}", distance(a, b)
    longer = max(first, other, key=len)[min(len(first), len(other))]
    return f"result{longer.path}, {article(longer.kind)}, is in one of the two alone.", (None, None)


def inside(a: Returned, b: Returned) -> str:
    """Which elements, or characters, of a part differ."""
    if not a.shape and not a.dtype:
        x, y = (p.data.decode("utf-8", "backslashreplace") for p in (a, b))
        at = next((n for n, (c, d) in enumerate(zip(x, y, strict=False)) if c != d), min(len(x), len(y)))
        shown = [text[max(at - AROUND, 0) : at + AROUND] for text in (x, y)]
        return f"the first character that differs is {at}: {shown[0]!r} and {shown[1]!r}."
    size = len(a.data) // max(int(np.prod(a.shape)), 1)
    x, y = (np.frombuffer(p.data, np.uint8).reshape(-1, size) for p in (a, b))
    unequal = np.flatnonzero((x != y).any(1))
    index = [int(n) for n in np.unravel_index(unequal[0], a.shape)] if a.shape else ""
    u, v = (number(p, int(unequal[0]), size) for p in (a, b))
    ulp, _ = distance(a, b)
    far = "" if ulp is None else f", up to {ulp:.0f} ulp apart"
    return f"{len(unequal)} of {len(x)} elements differ, the first is {index or 'the number itself'}: {u} and {v}{far}."


def number(part: Returned, index: int, size: int) -> object:
    data = part.data[index * size : (index + 1) * size]
    if part.dtype in FLOATS:
        return floats_of(integers(data, size), part.dtype)[0]
    try:
        return np.frombuffer(data, part.dtype)[0]
    except TypeError:  # a dtype that numpy has not got
        return f"0x{data[::-1].hex()}"


def integers(data: bytes, size: int) -> np.ndarray:
    return patterns(np.frombuffer(data, f"u{size}"))


def distance(a: Returned, b: Returned) -> tuple[float | None, float | None]:
    if a.dtype not in FLOATS:
        return None, None
    size = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[a.dtype]
    return furthest(integers(a.data, size), integers(b.data, size), a.dtype)
