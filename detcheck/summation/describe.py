"""What an order of additions is, in words, as an outline, and as one line that spells it out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detcheck.summation.fold import Fold

SPLITS = 8  # at most so many long parts are a split; more are blocks
WORDS = 400  # characters; an order that takes more is called irregular
DEEPER = "further parts"
LINES = 40  # of an outline
DEPTH = 12  # of an outline, and of what is put in words


def words(f: Fold) -> str:
    """Like "32 lanes strided over blocks of 512, then added in order". `f` is the whole tree, folded."""
    if f.size == 1:
        return "one summand: nothing is added"
    if f.size == 2:
        return "one addition"
    if f.kind == "chain" and f.start is None and f.body.kind == "leaf" and abs(f.stride) == 1:
        return "sequential" if f.stride == 1 else "reversed: sequential from the last to the first"
    said = phrase(f, 0)
    return said if len(said) <= WORDS and DEEPER not in said else irregular(f)


def irregular(f: Fold) -> str:
    """In short, of what takes too many words: how unlike its parts are, and how large those that it adds up in the end."""
    if f.start is not None:
        last = f"{f.start.size} summands and then {f.count * f.terms} times {f.body.size}"
    elif f.kind == "mix":
        sizes = [str(part.size) for _, part in f.parts]
        last = f"{', '.join(sizes[:5])}{' ...' if len(sizes) > 5 else ''} summands"
    else:
        last = f"{f.count} times {f.body.size} summands"
    return f"irregular: {distinct(f)} unlike subtrees; it adds up parts of {last}"


def phrase(f: Fold, depth: int, at: int = 0) -> str:
    """What is added how, of a part. `at`: its first summand; parts that repeat count their summands from their own first."""
    if depth > DEPTH:
        return DEEPER
    body = f.body if f.parts else None
    if f.kind == "leaf":
        return "one summand"
    if f.kind == "lanes":
        return f"{lanes(f)} strided, then added{lanes_added(f, depth)}"
    if f.kind == "halves":
        return f"pairwise, cut in halves again and again{longer(f)}"
    if f.kind == "mix":
        together = "" if f.terms == 1 else f" (added in one node of {f.terms + 1})"
        first, *rest = [
            placed(at + offset, part, depth + 1, bracketed=n > 0) for n, (offset, part) in enumerate(f.parts)
        ]
        return ", then ".join([first, *rest]) + together
    if f.kind == "chain" and f.terms > 1:
        begins = "" if f.start is None or f.start.kind == "leaf" else f"{phrase(f.start, depth + 1)}, then "
        of = "" if body.kind == "leaf" else f" of {body.size} ({phrase(body, depth + 1)})"
        return f"{begins}{f.terms} at a time{of} added to the sum in one node of {f.terms + 1}, {order(f)}"
    if f.kind == "chain" and f.start is not None:
        (begin, start), (first, _) = f.parts
        like = "more" if body.kind == "leaf" else f"parts like ({phrase(body, depth + 1)}),"
        return f"{placed(at + begin, start, depth + 1)}, then {f.count} {like} {steps(f, at + first)}"
    if body.kind == "leaf":
        every = (
            f"every {ordinal(abs(f.stride))} of {f.count * abs(f.stride)}"
            if f.kind == "chain" and abs(f.stride) > 1
            else f"{f.size}"
        )
        if f.kind == "pairs":
            step = min(f.stride, f.apart)
            far = "" if step == 1 else f", {step} apart"
            return f"{'2 ' if f.size == 2 else ''}{rounds(f)}{far}"
        return f"{every} {how(f)}"
    if contiguous(f):
        inside = "" if plain(body) else phrase(body, depth + 1)
        if body.kind == "lanes":
            return f"{lanes(body)} strided over blocks of {body.size} (lanes added{lanes_added(body, depth)}), then added {how(f)}"
        kind = (
            f"split in {f.count} parts of {body.size}"
            if f.count <= min(SPLITS, body.size)
            else f"blocks of {body.size}"
        )
        within = f" (each: {inside})" if inside else " (each in order)" if "split" in kind else ""
        return f"{kind}{within}, added {how(f)}"
    step = min(f.stride, f.apart) if f.kind == "pairs" else abs(f.stride)
    return f"{f.count} parts of {body.size}, {step} apart (each: {phrase(body, depth + 1)}), added {how(f)}"


def placed(offset: int, part: Fold, depth: int, bracketed: bool = False) -> str:
    """A part that begins at that summand. `bracketed`: also where that is the first one, since other parts stand before it."""
    if part.kind == "leaf":
        return f"summand {offset}"
    said = phrase(part, depth, offset)
    return f"from {offset} on ({said})" if offset or bracketed else said


def how(f: Fold) -> str:
    return {"pairs": rounds(f), "at once": f"in one node of {f.count}"}.get(f.kind) or order(f)


def order(f: Fold) -> str:
    return "in order" if f.stride >= 0 else "in reverse order"


def rounds(f: Fold) -> str:
    if f.count == 2:
        return "in one addition"
    return "pairwise, neighbours first" if f.stride < f.apart else "pairwise, halves first"


def steps(f: Fold, first: int) -> str:
    """Where the bodies of a chain stand that join one after the other."""
    apart = "" if abs(f.stride) == f.body.size else f"{abs(f.stride)} apart "
    return f"{apart}in order from {first} {'on' if f.stride >= 0 else 'back'}"


def longer(f: Fold) -> str:
    """Of halves: which of two that are not equal comes first."""
    return ", the longer half first" if f.apart else ""


def contiguous(f: Fold) -> bool:
    """Whether its bodies are runs that follow each other."""
    step = min(abs(f.stride), f.apart or abs(f.stride)) if f.kind == "pairs" else abs(f.stride)
    return step == f.body.size


def plain(f: Fold) -> bool:
    return f.kind == "chain" and f.body.kind == "leaf" and f.start is None and f.stride == 1 and f.terms == 1


def lanes(f: Fold) -> str:
    return f"{f.count} lanes{' of pairs (the second of a pair first)' if f.terms == 2 else ''}"


def lanes_added(f: Fold, depth: int) -> str:
    """How the lanes of a fold are added up."""
    between = f.body
    if between.kind == "pairs" and between.body.kind == "leaf":
        return f" {rounds(between)}"
    simple = (
        between.terms == 1
        and between.kind in ("chain", "at once")
        and between.start is None
        and between.body.kind == "leaf"
    )
    return f" {how(between)}" if simple and abs(between.stride) == 1 else f": {phrase(between, depth + 1)}"


def ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def distinct(f: Fold) -> int:
    """How many unlike subtrees it has, folded."""
    seen, todo = set(), [f]
    while todo:
        g = todo.pop()
        if g.name not in seen:
            seen.add(g.name)
            todo += [part for _, part in g.parts]
    return len(seen)


@dataclass(frozen=True)
class Entry:
    """A line of an outline."""

    depth: int
    last: bool
    """whether nothing of its parent comes behind it"""
    text: str


def outline(f: Fold, marked: frozenset[str] = frozenset(), mark: str = "  <- differs") -> list[Entry]:
    """The tree, an equal subtree once. `marked`: names of folds to point at."""
    entries: list[Entry] = []
    todo: list[tuple[Fold, int, bool, str]] = [(f, 0, True, "")]
    while todo:
        g, depth, last, where = todo.pop()
        if len(entries) == LINES:
            entries.append(Entry(0, True, "..."))
            break
        pointed = mark if g.name in marked and g.kind != "leaf" else ""
        ends = g.kind in ("leaf", "lanes") or (len(g.parts) == 1 and g.parts[0][1].kind == "leaf")
        cut = " ..." if depth > DEPTH and not ends else ""
        entries.append(Entry(depth, last, f"{where}{title(g)}{pointed}{cut}"))
        if ends or cut:
            continue
        for n, (offset, part) in reversed(list(enumerate(g.parts))):
            said = f"+{offset}: " if len(g.parts) > 1 else ""
            todo.append((part, depth + 1, n == len(g.parts) - 1, said))
    return entries


def drawn(entries: Sequence[Entry]) -> list[str]:
    """An outline as lines of text."""
    lines, ended = [], {}  # depth -> whether what was drawn there last was the last of its parent
    for entry in entries:
        ended[entry.depth] = entry.last
        lead = "".join("   " if ended[d] else "│  " for d in range(1, entry.depth))
        branch = ("└─ " if entry.last else "├─ ") if entry.depth else ""
        lines.append(lead + branch + entry.text)
    return lines


def title(f: Fold) -> str:
    """One fold, in a line."""
    what = "summands" if f.parts and f.body.kind == "leaf" else "×"
    if f.kind == "leaf":
        return "one summand"
    if f.kind == "mix":
        return f"{f.size} summands in {len(f.parts)} unlike parts, added {'one after the other' if f.terms == 1 else 'in one node'}"
    if f.kind == "lanes":
        taking = f"j, j + {f.count} ... in order"
        taking = taking if f.terms == 1 else f"the pairs {taking}, the second of each first"
        return f"{f.size} summands in {f.count} lanes, lane j taking {taking}; the lanes are added{lanes_added(f, 0)}"
    if f.kind == "halves":
        return f"{f.size} summands, cut in halves again and again{longer(f)}"
    step = (
        f", {f.stride:+d} each"
        if f.kind != "pairs"
        else f", first {f.stride} apart" + (f", last {f.apart}" if f.count > 2 else "")
    )
    begin = "from a start, " if f.start is not None else ""
    at = f", {f.terms} at once" if f.terms > 1 else ""
    return f"{begin}{f.count} {what}, {how(f)}{step}{at}"


def spelled(f: Fold) -> str:
    """The whole order in one line, for machines and for those who compare by eye: `chain(22@+192 chain(192@+1 .))`."""
    out: list[str] = []
    todo: list[Fold | str] = [f]
    while todo:
        g = todo.pop()
        if isinstance(g, str):
            out.append(g)
        elif g.kind == "leaf":
            out.append(".")
        else:
            length = f"({g.size}" if g.kind in ("lanes", "halves") else f"({g.count}"
            length += "x2" if g.kind == "lanes" and g.terms == 2 else ""
            length = f"(-{g.size}" if g.kind == "halves" and g.apart else length
            head = {"mix": f"({g.terms + 1} " if g.terms > 1 else "("}.get(
                g.kind
            ) or f"{g.kind.replace(' ', '-')}{length}"
            if g.kind in ("chain", "pairs", "at once"):
                head += (
                    f"@{g.stride:+d}"
                    + (f"x{g.terms}@{g.apart:+d}" if g.terms > 1 else f"..{g.apart}" if g.kind == "pairs" else "")
                    + " "
                )
            parts: list[Fold | str] = [head] if g.kind not in ("halves", "lanes") else [head + " "]
            for n, (offset, part) in enumerate(g.parts):
                parts += [" + " if n else "", f"{offset}:" if len(g.parts) > 1 and offset else "", part]
            todo += reversed([*parts, ")"])
        if sum(map(len, out)) > 4 * WORDS:
            out.append("...")
            break
    return "".join(out)
