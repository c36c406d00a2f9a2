"""Triton's intermediate code (TTIR, MLIR's text) as a tree of operations, with the line of source that each comes from."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, field

from detcheck.reason import Reason
from detcheck.records import SourceLine


@dataclass(eq=False)
class Value:
    """What an operation gives, or a block's argument."""

    name: str
    type: str = ""

    @property
    def element(self) -> str:
        """Without the tensor around it: "f32", "i1", "!tt.ptr<bf16>"."""
        if inside := re.fullmatch(r"tensor<(?:\d+x)*(.+)>", self.type):
            return inside.group(1)
        return self.type

    @property
    def is_float(self) -> bool:
        return bool(re.match(r"b?f\d", self.element))

    @property
    def rank(self) -> int:
        sizes = re.match(r"tensor<((?:\d+x)*)", self.type)
        return sizes.group(1).count("x") if sizes else 0


@dataclass(eq=False)
class Block:
    label: str
    arguments: list[Value] = field(default_factory=list)
    ops: list[Operation] = field(default_factory=list)


@dataclass(eq=False)
class Operation:
    """One operation. `text` is its line without results, types and place; `targets` are the blocks that it branches to."""

    name: str
    text: str
    operands: list[Value]
    results: list[Value]
    place: SourceLine
    regions: list[list[Block]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name} = ([-\w.+\"]+)", self.text)
        return found.group(1).strip('"') if found else None

    def walk(self) -> Iterator[Operation]:
        yield self
        for region in self.regions:
            for block in region:
                for op in block.ops:
                    yield from op.walk()


@dataclass(eq=False)
class Function:
    name: str
    arguments: list[Value]
    blocks: list[Block]

    def walk(self) -> Iterator[Operation]:
        for block in self.blocks:
            for op in block.ops:
                yield from op.walk()


class UnreadableError(ValueError):
    """Text that is not as this version of the reader knows it."""

    def __init__(self, why: Reason) -> None:
        super().__init__(why)
        self.why = why


MOST_SHOWN = 100  # characters of a line
NAME = r"%[\w$.-]+"
LOC = re.compile(r" loc\((#\w+|.*)\)$")


BROKEN = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)
"""What reading raises of code in a form that it does not know"""
MOST_RESULTS = 10_000  # of one operation


def parse(text: str) -> Function:
    """The kernel of a module; functions that were not inlined stand beside it. Raises UnreadableError."""
    parser = Parser(text)
    try:
        return parser.kernel()
    except UnreadableError:
        raise
    except BROKEN:
        raise UnreadableError(Reason("unknown_form", {"line": parser.line[:MOST_SHOWN]})) from None


class Parser:
    def __init__(self, text: str) -> None:
        self._places = Places(text)
        self._lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self._at = 0

    @property
    def line(self) -> str:
        """That it is at."""
        return self._lines[self._at - 1] if self._at else ""

    def kernel(self) -> Function:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if not line.startswith("tt.func public"):
                continue
            name = re.search(r"@([\w$.]+)\(", line).group(1)
            scope: ChainMap[str, Value] = ChainMap()
            arguments = self._arguments(line[line.index("(") + 1 :], scope)
            blocks, _ = self._region(scope, arguments)
            return Function(name, arguments, blocks)
        raise UnreadableError(Reason("no_kernel"))

    def _arguments(self, text: str, scope: ChainMap[str, Value]) -> list[Value]:
        made = []
        for name, kind in re.findall(
            rf"({NAME}): ((?:tensor<[^>]*(?:<[^>]*>)?[^>]*>|[!\w.]+(?:<[^>]*(?:<[^>]*>)*>)?))", text
        ):
            scope[name] = Value(name, kind)
            made.append(scope[name])
        return made

    def _region(self, scope: ChainMap[str, Value], arguments: list[Value]) -> tuple[list[Block], str]:
        """Lines up to the one that closes the region, which is returned."""
        blocks = [Block("^bb0", list(arguments))]
        while True:
            if self._at >= len(self._lines):
                raise UnreadableError(Reason("open_region"))
            line = self._lines[self._at]
            self._at += 1
            if line.startswith("}"):
                return blocks, line
            if line.startswith("^"):
                label = re.match(r"\^\w+", line).group()
                given = self._arguments(line, scope)
                if len(blocks) == 1 and not blocks[0].ops and label == "^bb0":
                    blocks[0].arguments = given
                else:
                    blocks.append(Block(label, given))
                continue
            blocks[-1].ops.append(self._op(line, scope))

    def _op(self, line: str, scope: ChainMap[str, Value]) -> Operation:
        line, place = self._placed(line)
        results, _, rest = line.partition(" = ") if re.match(rf"{NAME}(:\d+)?(, {NAME})* = ", line) else ("", "", line)
        opens = rest.endswith("{")
        name = re.match(r'"?([\w.]+)"?', rest).group(1)
        carried: list[Value] = []
        if name == "scf.for":
            head = re.match(rf"scf\.for (?:unsigned )?({NAME}) = (\S+) to (\S+) step (\S+)", rest)
            bounds = [self._use(word, scope) for word in head.groups()[1:]]
            inits = re.findall(rf"({NAME}) = ({NAME}(?:#\d+)?)", rest[head.end() :])
            inner = scope.new_child()
            inner[head.group(1)] = Value(head.group(1), bounds[0].type)
            operands = bounds + [self._use(init, scope) for _, init in inits]
            for (own, _), init in zip(inits, operands[3:], strict=True):
                inner[own] = Value(own, init.type)
            carried = [inner[head.group(1)], *(inner[own] for own, _ in inits)]
        elif name == "scf.while":
            inits = re.findall(rf"({NAME}) = ({NAME}(?:#\d+)?)", rest)
            operands = [self._use(init, scope) for _, init in inits]
            inner = scope.new_child()
            for (own, _), init in zip(inits, operands, strict=True):
                inner[own] = Value(own, init.type)
            carried = [inner[own] for own, _ in inits]
        else:
            inner = scope.new_child()
            operands = [
                self._use(word, scope) for word in re.findall(rf"{NAME}(?:#\d+)?", re.sub(r'"[^"]*"', "", rest))
            ]
        op = Operation(name, rest, operands, [], place, targets=re.findall(r"\^\w+", rest))
        types = result_types(name, rest)
        while opens:
            blocks, closing = self._region(inner, carried)
            op.regions.append(blocks)
            closing, at = self._placed(closing)
            op.place = at if at.file else op.place
            if opens := closing.endswith("{"):  # } else {, } do {
                inner, carried = scope.new_child(), []
            elif closing.startswith("})"):
                types = result_types(name, closing)
        self._define(results, types, op, scope)
        return op

    def _use(self, word: str, scope: ChainMap[str, Value]) -> Value:
        name = word.rstrip(",:")
        if name not in scope:
            raise UnreadableError(Reason("unknown_name", {"name": name}))
        return scope[name]

    def _define(self, results: str, types: list[str], op: Operation, scope: ChainMap[str, Value]) -> None:
        for word in filter(None, results.split(", ")):
            name, _, count = word.partition(":")
            if count and int(count) > MOST_RESULTS:
                raise ValueError(count)
            names = [f"{name}#{i}" for i in range(int(count))] if count else [name]
            for each in names:
                kind = types[min(len(op.results), len(types) - 1)] if types else ""
                scope[each] = Value(each, kind)
                op.results.append(scope[each])

    def _placed(self, line: str) -> tuple[str, SourceLine]:
        found = LOC.search(line)
        return (line[: found.start()], self._places.of(found.group(1))) if found else (line, SourceLine())


def result_types(name: str, text: str) -> list[str]:
    """From the signature behind the last " : ", which each kind of operation writes in its own way."""
    if name in ("scf.for", "scf.if", "scf.while"):
        found = re.search(r"-> \((.*?)\)(?:\s*:\s*\w+)?\s*\{$", text) or re.search(r"-> (\S+)\s*\{$", text)
        return split(found.group(1)) if found else []
    _, colon, signature = text.rpartition(" : ")
    if not colon:
        return ["i1"] if text.endswith(("true", "false")) else []
    if "->" in signature:
        return split(signature.rpartition("->")[2].strip().removeprefix("(").removesuffix(")"))
    if " to " in signature:
        return [signature.rpartition(" to ")[2]]
    types = split(signature)
    if name in ("arith.cmpi", "arith.cmpf"):
        return [re.sub(r"^tensor<((?:\d+x)*).*$", r"tensor<\1i1>", types[0]) if types[0].startswith("tensor") else "i1"]
    if name == "tt.load":
        return [re.sub(r"!tt\.ptr<([^<>]+)(?:, \d+)?>", r"\1", types[0])]
    return [types[0] if name == "tt.addptr" else types[-1]]


def split(text: str) -> list[str]:
    """At the commas that no bracket holds."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "<([{") - (letter in ">)]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


class Places:
    """`#loc12 = loc(...)`, looked up. Of a call, the line in Triton's own library is passed over for the one that calls it."""

    def __init__(self, text: str) -> None:
        self._all = dict(re.findall(r"^(#\w+) = loc\((.*)\)$", text, re.M))

    def of(self, text: str, depth: int = 0) -> SourceLine:
        text = self._all.get(text, text)
        if depth > 50:
            return SourceLine()
        if found := re.fullmatch(r'"([^"]+)":(\d+):\d+(?: to .*)?', text):
            return SourceLine(found.group(1), int(found.group(2)))
        if found := re.fullmatch(r"callsite\((#\w+) at (#\w+)\)", text):
            inner, outer = (self.of(part, depth + 1) for part in found.groups())
            return outer if "/triton/language/" in inner.file or not inner.file else inner
        if found := re.fullmatch(r'"[^"]*"\((.*)\)', text):  # a name, of what is there
            return self.of(found.group(1), depth + 1)
        return SourceLine()
