"""What a fuzz target is, and how what it reads is changed: JSON by its structure, bytes blindly.

A target makes files and says what may never come of them. Its `check` is the oracle: it raises where a reader let an exception out, or where
a verdict is a pass although what is in the files, read once more by a few lines of its own, holds two outcomes or too few. The files of a
find are kept in `found/` as one JSON file, and the suite reads them again and again.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import strategies as st

from detcheck.errors import DetcheckError
from detcheck.report import render

FOUND = Path(__file__).parent / "found"
CPU_S = 20.0  # that one input may take
SHM = Path("/dev/shm")
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    files: st.SearchStrategy[Files]
    """what is read: name in a folder of its own -> bytes"""
    check: Callable[[Path], None]
    """reads the folder; raises for whatever must not be"""
    fault: tuple[object, str, Callable[..., object]]
    """object, attribute, and what is planted there: `check` must find it"""
    examples: int = 100
    """that the suite tries"""


class WrongPassError(AssertionError):
    """A verdict is a pass, and what is in the files does not bear it."""


class HangError(BaseException):
    """One input took longer than CPU_S. No `except Exception` may swallow it."""


@dataclass(frozen=True)
class Raw:
    """A piece of JSON as it is written, which need not be any."""

    text: str


@dataclass(frozen=True)
class Twice:
    """An object of pairs, in which a key may stand twice."""

    pairs: tuple[tuple[str, object], ...]


def written(value: object) -> str:
    """JSON, as far as it is any."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Twice):
        return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in value.pairs) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


NASTY: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 1.0, 1.5, "", "1", "a", "null", [], {}, [[]], [{}], [None], {"a": 1}, [1, 2], ["a"], [0.5],
    Raw("-0.0"), Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("1e-400"), Raw("9" * 400), Raw("9" * 5000), Raw("0.1e1"),
    2**31, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**30, 1e300, "\x00", "\ud800", "\udcff", "\ufeff", "\u2028", "\x1b[2J", "\r\n", "::error::",
    "<script>", "\x1e", "a" * 3000, "🙂", "e\u0301", "..", "/", "\x85", "NaN", "inf", "-inf", "1e999", "0x10", "١", " 1 ",
    Raw("[" * 3000), Raw("[" * 900 + "]" * 900), Raw('{"a":' * 900 + "1" + "}" * 900), Raw(""), Raw("'"), Raw("\x00"), Raw('"\n"'), Raw("01"), Raw("+1"),
)  # fmt: skip


def at(value: object, way: tuple) -> object:
    for key in way:
        value = value[key]
    return value


def put(value: object, way: tuple, made: object) -> object:
    """A copy in which that place holds something else."""
    if not way:
        return made
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = put(copy[way[0]], way[1:], made)
    return copy


@st.composite
def a_way(draw: st.DrawFn, value: object) -> tuple:
    """Down into a JSON value, to something in it."""
    way: tuple = ()
    while isinstance(value, dict | list) and value and (not way or draw(st.integers(0, 4))):
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        way, value = (*way, key), value[key]
    return way


@st.composite
def changed(draw: st.DrawFn, value: object, most: int = 3) -> object:
    """A JSON value, changed in up to `most` places."""
    for _ in range(draw(st.integers(0, most))):
        way = draw(a_way(value))
        one, above = at(value, way), at(value, way[:-1])
        how = draw(st.sampled_from(("nasty", "nasty", "drop", "double", "twice", "swap", "rename", "near", "wrap")))
        if how == "drop" and way:
            kept = dict(above) if isinstance(above, dict) else list(above)
            del kept[way[-1]]
            value = put(value, way[:-1], kept)
        elif how == "double" and way and isinstance(above, list):
            value = put(value, way[:-1], [*above[: way[-1]], one, *above[way[-1] :]])
        elif how in ("twice", "rename") and way and isinstance(above, dict):
            other = draw(st.sampled_from(NASTY)) if how == "twice" else one
            key = way[-1] if how == "twice" else draw(st.sampled_from([*above, "x", "\x00", ""]))
            kept = [(k, v) for k, v in above.items() if how == "twice" or k != way[-1]]
            value = put(value, way[:-1], Twice((*kept, (key, other)) if draw(st.booleans()) else ((key, other), *kept)))
            break  # no way leads into one
        elif how == "swap":
            value = put(value, way, at(value, draw(a_way(value))))
        elif how == "near" and isinstance(one, str | int | float) and not isinstance(one, bool):
            near = (one + "'", one[:-1], one.upper()) if isinstance(one, str) else (one + 1, -one, float(one), str(one))
            value = put(value, way, draw(st.sampled_from(near)))
        elif how == "wrap":
            value = put(value, way, draw(st.sampled_from(([one], {"a": one}, [one, one]))))
        else:
            value = put(value, way, draw(st.sampled_from(NASTY)))
    return value


ENCODED: tuple[Callable[[str], bytes], ...] = (
    lambda text: b"\xef\xbb\xbf" + text.encode("utf-8", "replace"),
    lambda text: text.encode("utf-16", "replace"),
    lambda text: text.encode("utf-16-le", "replace"),
    lambda text: text.encode("utf-32", "replace"),
    lambda text: text.replace("\n", "\r\n").encode("utf-8", "replace"),
    lambda text: text.replace("\n", "\r").encode("utf-8", "replace"),
    lambda text: text.encode("latin-1", "replace"),
    lambda text: ("\n\n " + text + "\n\n\x0b\x0c").encode("utf-8", "replace"),
    lambda text: ("\x00" + text).encode("utf-8", "replace"),
    lambda text: (text + "\x1a").encode("utf-8", "replace"),
)


@st.composite
def encoded(draw: st.DrawFn, text: str) -> bytes:
    """As UTF-8, or sometimes otherwise."""
    if draw(st.integers(0, 7)):
        return text.encode("utf-8", "surrogatepass" if draw(st.booleans()) else "replace")
    return draw(st.sampled_from(ENCODED))(text)


@st.composite
def torn(draw: st.DrawFn, raw: bytes, often: int = 4) -> bytes:
    """Bytes, one time in `often` cut, repeated, or with others in between."""
    if draw(st.integers(1, often)) != often:
        return raw
    for _ in range(draw(st.integers(1, 3))):
        a, b = sorted(draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
        how = draw(st.sampled_from(("cut", "drop", "again", "flip", "put")))
        if how == "cut":
            raw = raw[:a]
        elif how == "drop":
            raw = raw[:a] + raw[min(b, a + 64) :]
        elif how == "again":
            raw = raw[:b] + raw[a : min(b, a + 256)] + raw[b:]
        elif how == "flip" and a < len(raw):
            raw = raw[:a] + bytes([raw[a] ^ 1 << draw(st.integers(0, 7))]) + raw[a + 1 :]
        else:
            raw = raw[:a] + draw(st.binary(max_size=8)) + raw[a:]
    return raw


FORMATS = ("terminal", "json", "md", "html", "junit", "sarif")


def asked(call: Callable[[], object], formats: tuple[str, ...] | None = None) -> object | None:
    """The run, which sometimes is drawn, in one format or the other; None where it was refused in words."""
    try:
        run = call()
    except DetcheckError as error:
        assert error.lines and all(line.strip() for line in error.lines), "it was refused without a word"
        return None
    chosen = hashlib.sha256(repr(run.findings).encode("utf-8", "replace")).digest()[0] % (3 * len(FORMATS))
    for format in FORMATS[chosen : chosen + 1] if formats is None else formats:
        text = render(run, format)
        text.encode("utf-8")
        if format in ("json", "sarif"):
            json.loads(text, parse_constant=no_json)
        elif format == "junit":
            ElementTree.fromstring(text)
    return run


def no_json(name: str) -> None:
    raise AssertionError(f"a report in JSON holds {name}, which is none")


def raised(*_: object, **__: object) -> None:
    """Instead of a traceback that is printed: what is handled is raised again."""
    raise


@contextlib.contextmanager
def limited(seconds: float = CPU_S) -> Iterator[None]:
    """Raises HangError inside it, after that much processor time."""

    def ring(*_: object) -> None:
        raise HangError(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def folder_of(files: Files) -> Iterator[Path]:
    """A folder that holds them, in memory where there is a place for it, and which is the current one."""
    folder, here = Path(tempfile.mkdtemp(dir=SHM if os.access(SHM, os.W_OK) else None)), Path.cwd()
    try:
        for name, raw in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)
        os.chdir(folder)
        yield folder
    finally:
        os.chdir(here)
        shutil.rmtree(folder)


def tried(target: Target, files: Files) -> None:
    """One input, read. Raises whatever must not be."""
    with folder_of(files) as folder, limited():
        target.check(folder)


@dataclass
class Finds:
    """Finds of a target, one a kind: kept as files, and passed over while it goes on."""

    target: Target
    kept_in: Path
    executions: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """kind -> bytes of the smallest input of it"""

    def run(self, files: Files) -> None:
        self.executions += 1
        try:
            tried(self.target, files)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  every kind is a find
            self.keep(files, error)

    def keep(self, files: Files, error: BaseException) -> None:
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "detcheck/" in f.filename and "/tests/" not in f.filename
        ]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
        kind = f"{type(error).__name__} {where} {str(error)[:40] if not frames else ''}".strip()
        size = sum(map(len, files.values()))
        if size >= self.kinds.get(kind, 1 << 60):
            return
        path = self.kept_in / f"{self.target.name}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}.json"
        why = "".join(traceback.format_exception_only(error)).strip()[:400]
        self.kept_in.mkdir(parents=True, exist_ok=True)
        path.write_text(stored(self.target.name, files, f"{kind}: {why}"), "utf-8")
        if kind not in self.kinds:
            print(f"FOUND {kind}: {why.splitlines()[-1]}\n      python benchmarks/fuzz.py --replay {path}", flush=True)
        self.kinds[kind] = size


def stored(name: str, files: Files, why: str) -> str:
    """A find as a file, which people can read where it is text."""

    def held(raw: bytes) -> object:
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
        return {"base64": base64.b64encode(raw).decode()}

    document = {"target": name, "why": why, "files": {one: held(raw) for one, raw in files.items()}}
    return json.dumps(document, indent=1) + "\n"


def replayed(path: Path) -> tuple[str, Files]:
    """(target, files) of a find."""
    document = json.loads(path.read_text("utf-8"))
    files = {
        name: held.encode("utf-8") if isinstance(held, str) else base64.b64decode(held["base64"])
        for name, held in document["files"].items()
    }
    return document["target"], files


@functools.cache
def targets() -> Mapping[str, Target]:
    """Every target there is, by name: TARGETS of each module here that begins with `target_`."""
    import importlib

    names = sorted(path.stem for path in Path(__file__).parent.glob("target_*.py"))
    return {one.name: one for name in names for one in importlib.import_module(name).TARGETS}
